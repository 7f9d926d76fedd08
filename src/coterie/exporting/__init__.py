"""Weights that other libraries load."""
