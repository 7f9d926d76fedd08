"""Groups, assignments, memory, target networks and the objectives that combine them: tensors in, loss out."""
