"""Groups, assignments, memories, targets and the objective that joins them: tensors in, loss out."""
