"""Exported weights: files that timm and other libraries can load."""
