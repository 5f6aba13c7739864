"""Named points in the steps that must survive a sudden death; a test installs a hook that kills the process there.

In production nothing is installed and a point costs one comparison.
"""

from __future__ import annotations

from typing import Callable, Optional

hook: Optional[Callable[[str], None]] = None
"""Called with the name of each point reached, e.g. ``merge.before_commit``."""


def reached(point: str) -> None:
    """Say that the step called ``point`` is about to happen."""
    if hook is not None:
        hook(point)
