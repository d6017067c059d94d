"""Training: the loop, updates, data-parallel workers, checkpoints, run directories and loggers."""
