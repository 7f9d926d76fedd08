"""Detectors that are kept: boxes as people label them, training over the feature maps of a MODEL, figures, their file."""
