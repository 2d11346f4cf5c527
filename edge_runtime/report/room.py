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
_EVENTS_SHARE = 10  # of the bytes of the events: all are rows of tables
_LINES_SHARE = 0.6  # of the bytes of steps and samples, as long as these are few
_LINES_BYTES = 8 << 20  # of more of them a bounded part is held
_PAGE_BYTES = 63 << 20  # libraries and figures, when the lines are gone
_OTHER_BYTES = 8 << 20  # a block of lines, the tables of the report


def report_bytes(runs: Sequence[Path], *, page: bool) -> int:
    """What a report needs beside the loaded program; runs are read one after the other.

    Args:
        runs: run folders; files that are missing are reported when they are read.
        page: whether an HTML page is made.
    """
    events = max(_size_bytes(run / EVENTS_FILE) for run in runs)
    lines = max(_size_bytes(run / STEPS_FILE) + _size_bytes(run / POWER_FILE) for run in runs)
    held = min(round(_LINES_SHARE * lines), _LINES_BYTES)
    return _OTHER_BYTES + _EVENTS_SHARE * events + max(held, _PAGE_BYTES if page else 0)


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
