"""Pure, stateless functions on tensors, never below float32."""
