"""Protocols learned from published conversations, and proved by rendering those conversations again."""
