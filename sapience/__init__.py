"""sapience: the open, complete DeepSeek-V3 training system, from raw text to an assistant, in one recipe."""

__version__ = "0.1.0"
