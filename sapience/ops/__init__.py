"""The arithmetic that is worth tuning. Each op has a plain PyTorch reference that defines its meaning."""
