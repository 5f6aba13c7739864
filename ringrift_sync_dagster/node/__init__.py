"""The node kit: runs wherever the games are, on Python 3.8 and later; imports the standard library and itself only."""

from __future__ import annotations

KIT_VERSION = "1.0.0"
