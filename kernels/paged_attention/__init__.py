"""Attention of ragged queries to keys and values in pages."""
