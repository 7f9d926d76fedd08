"""Evaluation of learned features: label-free metrics, probes with labels, and the choice of a snapshot."""
