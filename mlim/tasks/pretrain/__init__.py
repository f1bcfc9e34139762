"""Pre-training: passes over a batch, and the tasks that read them."""
