"""The stages that make a base model: pretrain and extend, and what is only theirs."""
