"""The gate of a gated MLP in one pass."""
