"""How much memory a report needs. Unit: bytes.

Upper bounds from the sizes of the files; `tests/test_report_room.py` measures them.
"""

from collections.abc import Sequence
from pathlib import Path

from edge_runtime.records.run import EVENTS_FILE, POWER_FILE, STEPS_FILE

ADVICE = (
    "Make it of a copy of the run folder on another machine, give the container more memory, "
    "or choose --json or --csv, which need less than a page."
)
_SHARE = 0.6  # of the bytes of the lines: their numbers, and what is computed of them
_PAGE_BYTES = 60 << 20  # libraries and figures, when the lines are gone
_OTHER_BYTES = 6 << 20  # a block of lines, the tables of the report


def report_bytes(runs: Sequence[Path], *, page: bool) -> int:
    """What a report needs beside the loaded program; runs are read one after the other.

    Args:
        runs: run folders; files that are missing are reported when they are read.
        page: whether an HTML page is made.
    """
    lines = max(sum(map(_size_bytes, _files(run))) for run in runs)
    return _OTHER_BYTES + max(round(_SHARE * lines), _PAGE_BYTES if page else 0)


def _files(run: Path) -> list[Path]:
    return [run / name for name in (STEPS_FILE, EVENTS_FILE, POWER_FILE)]


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
