"""Marks for parameters: many cases of one kind run in ``make cluster``, and ``make test`` keeps one of them."""

from __future__ import annotations

from typing import Any

import pytest


def first_of(kept: object, *others: object) -> list[Any]:
    """Parameters of which only the first one belongs to ``make test``; a tuple is one value of each name."""
    return [kept, *(pytest.param(*_values(other), marks=pytest.mark.cluster) for other in others)]


def _values(given: object) -> tuple[object, ...]:
    return given if isinstance(given, tuple) else (given,)
