"""The machine's memory as the kernel reports it, in bytes."""

from pathlib import Path


def meminfo_bytes(root: Path = Path("/")) -> dict[str, int]:
    """/proc/meminfo by its names, such as `MemTotal`; empty where it cannot be read."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    amounts = {}
    for line in lines:
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            amounts[name] = int(value.removesuffix("kB")) * 1024
    return amounts
