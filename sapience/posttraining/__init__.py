"""Post-training's mechanisms: samples, packing, supervised fine-tuning and GRPO. They know no stage and no run directory."""
