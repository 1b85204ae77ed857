"""The whole training in stages, each done once and remembered."""
