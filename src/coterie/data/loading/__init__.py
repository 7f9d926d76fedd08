"""From a source to batches: order, workers, prefetching."""
