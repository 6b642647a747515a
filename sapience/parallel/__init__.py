"""Who executes a step, and on how many processes. The only room that wraps a model."""
