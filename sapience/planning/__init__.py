"""What a recipe needs and what this machine offers; no torch in this process, so that a refusal comes at once."""
