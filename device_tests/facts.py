"""Facts that checks find, as they go into docs/results/."""

import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
Facts = dict[str, Any]


def timed(check: Callable[[], Facts]) -> Facts:
    """The facts of a check with the time that it took."""
    begin_s = time.monotonic()
    facts = check()
    return {**facts, "took_s": round(time.monotonic() - begin_s, 1)}


def circumstances(*folders: str) -> Facts:
    """When, where and of which commit something was checked.

    Args:
        folders: whose uncommitted changes matter.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD").strip(),
        "has_changes": bool(git("status", "--porcelain", "--", *folders)),
        "machine": f"{platform.machine()}, Linux {platform.release()}",
    }


def versions(commands: Sequence[str]) -> dict[str, str]:
    """The first line of `COMMAND --version`."""
    return {
        command: subprocess.run(
            [command, "--version"], capture_output=True, text=True, check=True
        ).stdout.splitlines()[0]
        for command in commands
    }
