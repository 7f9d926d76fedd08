"""How long a run takes, how much memory, and where the time goes."""
