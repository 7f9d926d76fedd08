"""Measuring what weights are worth: the same head trained from new weights, from a MODEL and from others."""
