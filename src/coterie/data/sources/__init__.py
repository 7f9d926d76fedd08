"""Image sources: folders, lists, parquet tables, tar shards and arrays, on this machine or in a store."""
