"""Marks for parameters: many cases of one kind run in ``make cluster``, and ``make test`` keeps one of them."""

from __future__ import annotations

from typing import Any

import pytest


def first_of(kept: object, *others: object) -> list[Any]:
    """Parameters of which only the first one belongs to ``make test``."""
    return [kept, *(pytest.param(value, marks=pytest.mark.cluster) for value in others)]
