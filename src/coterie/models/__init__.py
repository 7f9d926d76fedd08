"""Networks: backbones, heads, the encoder that combines them, and what changes how they run."""
