"""Embeddings of whole sources."""
