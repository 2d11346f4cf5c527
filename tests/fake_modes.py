"""Power modes of fake boards: a tree of cpufreq, and a small nvpmodel."""

from pathlib import Path

import fake_board
import pytest

from edge_runtime.device import Thermometer
from edge_runtime.device import cpufreq as kernel

STEPS_KHZ = (600_000, 900_000, 1_200_000, 1_800_000, 2_400_000)
_NVPMODEL = """#!/bin/sh
here={folder}
case $1 in
    -q) . $here/now; printf 'NV Power Mode: %s\\n%s\\n' "$name" "$id" ;;
    -p) cat $here/table ;;
    -m) echo "$2" >> $here/asked; . $here/set; exit 0 ;;
esac
"""


def cpufreq(
    root: Path,
    *,
    kinds: tuple[tuple[int, ...], ...] = (STEPS_KHZ,),
    governor: str = "schedutil",
    cores: int = 2,
    has_table: bool = True,
) -> Path:
    """Cores of each kind by turns, at their highest clock rate; returns the sysfs folder.

    Without a table of its rates, as of intel_pstate, amd-pstate and cppc, a processor takes
    any between its lowest and its highest.
    """
    for core in range(cores):
        steps = kinds[core % len(kinds)]
        files = {
            "scaling_governor": governor,
            "scaling_available_governors": "performance powersave schedutil userspace",
            "scaling_available_frequencies": " ".join(map(str, steps)),
            "scaling_driver": "cpufreq-dt",
            "scaling_max_freq": steps[-1],
            "cpuinfo_min_freq": steps[0],
            "cpuinfo_max_freq": steps[-1],
        }
        if not has_table:
            del files["scaling_available_frequencies"]
        fake_board.write(root / f"sys/devices/system/cpu/cpu{core}/cpufreq", files)
    return root / "sys"


class Heat:
    """Limits that are read are at most `cap_khz`, and others are kept, as the kernel does it.

    With a cap, the board is throttled.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.cap_khz: int | None = None
        read_number = kernel.read_number

        def read(path: Path) -> int | None:
            number = read_number(path)
            is_limit = path.name == "scaling_max_freq"
            if number is None or self.cap_khz is None or not is_limit:
                return number
            return min(number, self.cap_khz)

        patch.setattr(kernel, "read_number", read)
        patch.setattr(Thermometer, "is_throttled", lambda _: self.cap_khz is not None)
        patch.setattr(kernel, "COOLING_S", 0.0)


def limits(sys: Path) -> list[str]:
    """Governor and limit of each core."""
    folders = sorted(sys.glob("devices/system/cpu/cpu*/cpufreq"))
    return [
        " ".join(
            (folder / name).read_text().strip()
            for name in ("scaling_governor", "scaling_max_freq")
        )
        for folder in folders
    ]


def nvpmodel(folder: Path, table: str, on_set: str = "") -> Path:
    """A program in folder/bin that lists a table; its mode is 15W, number 0.

    Args:
        folder: where it is.
        table: what `-p --verbose` prints.
        on_set: shell commands of `-m`, with the number in $2; default: the mode is set.
    """
    names = {"0": "15W", "1": "25W", "3": "7W"}
    cases = " ".join(f"{number}) name={name} ;;" for number, name in names.items())
    usual = f'case $2 in {cases} esac; echo "id=$2 name=$name" > $here/now'
    fake_board.put(folder / "now", "id=0 name=15W")
    fake_board.put(folder / "table", table)
    fake_board.put(folder / "set", on_set or usual)
    program = folder / "bin/nvpmodel"
    fake_board.put(program, _NVPMODEL.format(folder=folder))
    program.chmod(0o755)
    return folder / "bin"
