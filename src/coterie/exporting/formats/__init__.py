"""The formats of ``coterie export``: each writes a folder, and opens it again in the library that it is for."""
