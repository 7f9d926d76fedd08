"""Segmenters that are kept: masks as people draw them, heads over the feature maps of a MODEL, figures, their file."""
