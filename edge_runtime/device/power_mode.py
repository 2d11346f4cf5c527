"""The power mode of a Jetson, as nvpmodel names it: how much power the board may draw."""

import re
import subprocess
from pathlib import Path

from edge_runtime.device.files import text

_STATUS = re.compile(r"pmode:(\d+)")
_ANSWER = re.compile(r"NV Power Mode:\s*(\S+)")
_LONGEST_S = 5.0


def power_mode(root: Path = Path("/")) -> str | None:
    """The mode's name, such as `15W` or `MAXN`; `None` on boards without modes.

    nvpmodel keeps the number of its mode in a file. Before a mode was ever chosen there is no
    such file, and the program is asked.

    Args:
        root: where /etc and /var are.
    """
    return _from_files(root) or (_from_program() if root == Path("/") else None)


def _from_files(root: Path) -> str | None:
    status = _STATUS.search(text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    modes = text(root / "etc/nvpmodel.conf") or ""
    name = re.search(rf"<\s*POWER_MODEL\s+ID={int(status[1])}\s+NAME=([^\s>]+)", modes)
    return name[1] if name else None


def _from_program() -> str | None:
    try:
        done = subprocess.run(
            ["nvpmodel", "-q"], capture_output=True, text=True, timeout=_LONGEST_S
        )
    except (OSError, subprocess.SubprocessError):  # no Jetson
        return None
    name = _ANSWER.search(done.stdout)
    return name[1] if name else None
