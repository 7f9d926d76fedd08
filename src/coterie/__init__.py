"""Learn visual features from unlabelled images by grouping them."""
