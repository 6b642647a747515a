"""Post-training: the mechanisms (samples, packing, supervised fine-tuning, preferences, GRPO) and the stages that call them."""
