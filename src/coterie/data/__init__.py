"""From image sources to batches of augmented views."""
