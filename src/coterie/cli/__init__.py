"""The command line: it calls :mod:`coterie.api` and nothing else."""
