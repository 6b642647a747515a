"""Post-training: the bodies of its stages, from `specialise` to `reinforce`, and the mechanisms that they share."""
