"""Pages to look at: of a run, of a comparison."""
