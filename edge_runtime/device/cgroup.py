"""Limits of a container or a service manager: control groups, version 1 or 2.

A limit of an outer group also holds for every group inside it, so each function takes the
smallest from our own group up to the root.
"""

from collections.abc import Iterator
from pathlib import Path


def cpu_quota(root: Path) -> float | None:
    """Processors this process may use, such as 1.5; `None` without a limit."""
    quotas = [
        int(words[0]) / int(words[1])
        for folder in _own_folders(root, "cpu")
        for words in (
            _words(folder / "cpu.max"),  # quota or "max", then period, in microseconds
            _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us"),
        )
        if len(words) == 2 and words[0] not in ("max", "-1")
    ]
    return min(quotas, default=None)


def memory_limit_bytes(root: Path) -> int | None:
    """The most memory our group may hold; `None` without a limit.

    Version 1 writes "no limit" as a number near 2**63, more than any machine has. Above
    `memory.high` the kernel takes memory back and slows the group down: that is a limit, too.
    """
    limits = [_limit_bytes(folder) for folder in _own_folders(root, "memory")]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit_bytes(group: Path) -> int | None:
    """The least limit of this group alone."""
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    values = [words[0] for name in names if (words := _words(group / name))]
    return min((int(value) for value in values if value != "max"), default=None)


def memory_headroom_bytes(root: Path) -> int | None:
    """Memory our groups may still take before one is full; `None` without a limit.

    Cached files that can be dropped at any time do not count as used.
    """
    left = []
    for folder in _own_folders(root, "memory"):
        limit = _limit_bytes(folder)
        used = _words(folder / "memory.current") or _words(folder / "memory.usage_in_bytes")
        if limit is not None and used:
            parts = dict(line.split() for line in _lines(folder / "memory.stat"))
            files = parts.get("total_inactive_file") or parts.get("inactive_file") or "0"
            left.append(max(0, limit - int(used[0]) + int(files)))
    return min(left, default=None)


def memory_pressure(root: Path) -> float | None:
    """Percent of the last ten seconds in which a process of our group waited for memory.

    Of the whole machine where the group has no such file; `None` where the kernel does not
    count it.
    """
    own = [folder / "memory.pressure" for folder in _own_folders(root, "memory")][:1]
    for path in (*own, root / "proc/pressure/memory"):
        for line in _lines(path):
            if line.startswith("some avg10="):  # "some avg10=0.00 avg60=0.00 ..."
                return float(line.split()[1].removeprefix("avg10="))
    return None


def _own_folders(root: Path, controller: str) -> Iterator[Path]:
    """Our groups that may limit `controller`, innermost first.

    Inside a container the path in /proc may not exist below the mount, but its parents do: the
    mount itself is the container's group.
    """
    mounts = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        # "4:cpu,memory:/a/b"; in version 2 "0::/a/b"
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = mounts / controller if controllers else mounts
        group = mount / path.lstrip("/")
        yield group
        yield from (outer for outer in group.parents if outer.is_relative_to(mount))


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # no such file: no such limit
        return []
