"""Training: the loop, callbacks, checkpoints, and runs in their folders."""
