"""Weights that other libraries read."""
