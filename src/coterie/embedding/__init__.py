"""Embeddings of all images of a source: in memory, cached beside a run, or as parquet files."""
