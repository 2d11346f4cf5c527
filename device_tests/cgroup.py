"""A memory limit enforced by the kernel: a temporary control group, of version 1 or 2.

Uses the file system that is mounted; without one, mounts it for that time. Needs root. Unit:
bytes.
"""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_MOUNTS = Path("/sys/fs/cgroup")
_LONGEST_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryGroup:
    """A group of processes with a common memory limit and no swap."""

    folder: Path
    version: int
    limit_bytes: int

    def command(self, words: Sequence[str]) -> list[str]:
        """The command line that runs `words` inside the group; it has their exit code."""
        join = 'echo $$ > "$0" && exec "$@"'
        return ["sh", "-c", join, str(self.folder / "cgroup.procs"), *words]

    @property
    def kills(self) -> int:
        """How many of its processes the kernel has killed for memory."""
        name = {1: "memory.oom_control", 2: "memory.events"}[self.version]
        counts = dict(line.split() for line in (self.folder / name).read_text().splitlines())
        return int(counts["oom_kill"])

    @property
    def free_bytes(self) -> int:
        """What its processes may still take; cached files count as free."""
        name = {1: "memory.usage_in_bytes", 2: "memory.current"}[self.version]
        table = (
            line.split() for line in (self.folder / "memory.stat").read_text().splitlines()
        )
        cached = int(dict(table)["inactive_file"])
        return self.limit_bytes - int((self.folder / name).read_text()) + cached

    @property
    def peak_bytes(self) -> int:
        """The peak so far, file cache included."""
        name = {1: "memory.max_usage_in_bytes", 2: "memory.peak"}[self.version]
        return int((self.folder / name).read_text())


@contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[MemoryGroup]:
    """A group during the block; processes still inside at its end are killed.

    Raises:
        PermissionError: not root, or the container may not create groups.
        RuntimeError: the kernel has no memory controller.
    """
    with ExitStack() as undo:
        version, parent = _find_parent() or _mount(undo)
        folder = parent / f"edge-train-{os.getpid()}-{time.monotonic_ns()}"
        folder.mkdir()
        undo.callback(_remove, folder)
        names = {
            1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
            2: ("memory.max", "memory.swap.max"),
        }[version]
        (folder / names[0]).write_text(str(limit_bytes))
        if (folder / names[1]).exists():  # version 1 counts memory and swap together
            (folder / names[1]).write_text(str(limit_bytes if version == 1 else 0))
        yield MemoryGroup(folder=folder, version=version, limit_bytes=limit_bytes)


def _find_parent() -> tuple[int, Path] | None:
    """The mounted version, and the folder for the group; outer limits still apply."""
    for kind, mount, options in _mounted():
        if kind == "cgroup" and "memory" in options:
            own = mount / _own_path("memory")
            return 1, own if own.is_dir() else mount
    for kind, mount, _ in _mounted():
        if (
            kind == "cgroup2"
            and "memory" in (mount / "cgroup.controllers").read_text().split()
        ):
            # Only a group without processes may limit sub-groups, so not this process's group.
            own = mount / _own_path("")
            parent = own.parent if own.is_dir() and own != mount else mount
            _delegate_memory(parent)
            return 2, parent
    return None


def _mounted() -> list[tuple[str, Path, list[str]]]:
    """Type, place and options of every control group file system."""
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [
        (kind, Path(place), options.split(","))
        for _, place, kind, options, *_ in lines
        if kind in ("cgroup", "cgroup2")
    ]


def _own_path(controller: str) -> str:
    """The group of this process, relative to the mount; version 2 names no controllers."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path.lstrip("/")
    return ""


def _delegate_memory(parent: Path) -> None:
    """Allow sub-groups to have limits."""
    control = parent / "cgroup.subtree_control"
    if "memory" in control.read_text().split():
        return
    try:
        control.write_text("+memory")
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # The root of a container is not a real root: it must not have processes itself.
        others = parent / "edge-train-others"
        others.mkdir(exist_ok=True)
        for pid in (parent / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (others / "cgroup.procs").write_text(pid)
        control.write_text("+memory")


def _mount(undo: ExitStack) -> tuple[int, Path]:
    """Mount the memory controller at its usual place.

    It belongs to version 2 unless version 1 uses it.
    """
    lines = [line.split() for line in Path("/proc/cgroups").read_text().splitlines()]
    if not any(words[0] == "memory" and words[1] != "0" for words in lines):
        _mount_one(undo, "cgroup2", _MOUNTS)
    else:
        try:
            (_MOUNTS / "memory").mkdir(exist_ok=True)
        except OSError:  # the kernel's empty mount point cannot be changed
            _mount_one(undo, "tmpfs", _MOUNTS)
            (_MOUNTS / "memory").mkdir()
        _mount_one(undo, "cgroup", _MOUNTS / "memory", "-o", "memory")
    parent = _find_parent()
    if parent is None:
        raise RuntimeError("this kernel has no memory controller: see /proc/cgroups")
    return parent


def _mount_one(undo: ExitStack, kind: str, folder: Path, *options: str) -> None:
    _run("mount", "-t", kind, *options, kind, str(folder))
    undo.callback(_run, "umount", str(folder))


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(f"{' '.join(words)}: {done.stderr.strip()}")


def _remove(folder: Path) -> None:
    """Kill the processes inside and remove the group, which takes a moment."""
    deadline_s = time.monotonic() + _LONGEST_S
    while True:
        for pid in (folder / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline_s:
                raise
            time.sleep(0.02)
        else:
            return
