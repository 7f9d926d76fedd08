"""The settings of a run: their schema, the rules between them, and how they are read, written and completed."""
