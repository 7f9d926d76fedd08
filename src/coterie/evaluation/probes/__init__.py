"""Probes: how well labels can be predicted from learned features."""
