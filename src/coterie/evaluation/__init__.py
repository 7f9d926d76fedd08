"""Judging embeddings, and showing the result."""
