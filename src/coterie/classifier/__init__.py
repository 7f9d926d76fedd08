"""Classifiers that are kept: training them on labeled images, and predicting with them."""
