"""Training: loop, optimizer, checkpoints, processes. Knows models that return losses; knows nothing of tasks or recipes."""
