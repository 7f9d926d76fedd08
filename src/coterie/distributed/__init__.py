"""Training on several processes: starting them, collectives and sharded networks (FSDP)."""
