"""Estimates of the time and memory of a run, and profiles of its steps."""
