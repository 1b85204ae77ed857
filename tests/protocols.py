"""Protocols that tests use, and the shorthands of the built-in ones."""

from __future__ import annotations

from vzoom.protocol import builtin_protocol

VZOOM, BRIEF = builtin_protocol("vzoom"), builtin_protocol("vzoom-brief")
DIRECT = VZOOM.override(name="direct", pixels={"resize": "direct"})  # as Hugging Face's processor resizes
PUBLIC = VZOOM.override(name="public", glance={"rule": "videozoomer"}, zoom={"rule": "videozoomer"})
TAGS = VZOOM.tags
