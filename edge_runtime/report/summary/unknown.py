"""Arithmetic of numbers that may be unknown: `None`, or NaN in a column."""

import math
from collections.abc import Iterable

import numpy as np

from edge_runtime.report.summary.loader import Array


def total(parts: Iterable[float | None]) -> float | None:
    """A sum; unknown if a part is."""
    known = list(parts)
    return None if None in known else math.fsum(part for part in known if part is not None)


def minus(a: float | None, b: float | None) -> float | None:
    """A difference; unknown if a part is."""
    return None if a is None or b is None else a - b


def ratio(a: float | None, b: float | None) -> float | None:
    """Unknown if a part is, or if it is of nothing."""
    return None if a is None or not b else a / b


def highest(values: Array) -> float | None:
    """The largest number, if there is any."""
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else None


def larger(a: float | None, b: float | None) -> float | None:
    """The larger one of those that are known."""
    return max((value for value in (a, b) if value is not None), default=None)


def mean(values: Array) -> float | None:
    """Of the numbers that are known, if there are any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
