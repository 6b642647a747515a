"""`python -m sapience`."""

from sapience.cli import main

main()
