"""What the kernel says of the machine's memory, in bytes."""

from pathlib import Path


def meminfo_bytes(root: Path = Path("/")) -> dict[str, int]:
    """/proc/meminfo by its names, such as `MemTotal`; empty where it cannot be read."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value.removesuffix("kB")) * 1024
    return found
