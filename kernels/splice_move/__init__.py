"""Move cached tokens to other slots and other positions, in all layers."""
