"""The step loop, optimizer, schedules, checkpoints, metrics. Knows losses, not stages."""
