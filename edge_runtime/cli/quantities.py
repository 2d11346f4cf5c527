"""Quantities with their units: how they are printed, and how durations are read."""

import argparse
import re

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|min|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}


def bytes_text(size_bytes: float) -> str:
    """For example `512 B`, `3.4 MiB`, `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            break
        size_bytes /= 1024
    return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"


def duration_text(duration_s: float) -> str:
    """For example `0.42 s`, `41 s`, `3 min 20 s`, `2 h 5 min`."""
    if duration_s < 10:
        return f"{duration_s:.2f} s"
    whole_s = round(duration_s)
    if whole_s < 60:
        return f"{whole_s} s"
    if whole_s < 3600:
        return f"{whole_s // 60} min {whole_s % 60} s"
    return f"{whole_s // 3600} h {whole_s % 3600 // 60} min"


def count_text(count: float) -> str:
    """For example `812`, `5.5 k`, `1.2 M`, `3.4 G`."""
    for unit in ("", "k", "M", "G", "T"):
        if count < 1000 or unit == "T":
            break
        count /= 1000
    return f"{count:.1f} {unit}" if unit else f"{count:.0f}"


def duration_s(text: str) -> float:
    """Read `90s`, `5min` or `1.5h`, as an argparse type."""
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no duration; write a number with ms, s, min or h, such as 5min"
        )
    return float(found[1]) * _SECONDS[found[2]]


def natural(text: str) -> int:
    """Read 0, 1, 2, ..., as an argparse type."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def positive(text: str) -> int:
    """Read 1, 2, 3, ..., as an argparse type."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)
