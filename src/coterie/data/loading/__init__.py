"""Batches from image sources: order, worker processes, prefetching."""
