"""The commands of `sapience`, by what they are about. Each parses, calls and prints; none has logic of its own."""
