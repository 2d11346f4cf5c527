"""A stand-in for nvpmodel, and the file that names the release of L4T."""

from pathlib import Path

from device_tests.emulated_board.boards import Board
from device_tests.emulated_board.tree import put

_NVPMODEL = """#!/bin/sh
state=/run/nvpmodel.mode
id=0
[ -r $state ] && read -r id < $state
[ "$1" = -m ] && id=$2
case $id in
{names}
    *) echo "NVPM ERROR: no power mode $id"; exit 1 ;;
esac
case $1 in
    -q) printf 'NV Power Mode: %s\\n%s\\n' "$name" "$id" ;;
    -m) echo "$id" > $state.new && mv $state.new $state ;;
    -p) cat << END ;;
NVPM VERB: PM_CONFIG: DEFAULT={first}(0)
{table}
END
esac"""


def write_tools(prefix: Path, board: Board) -> None:
    """Write PREFIX/usr/bin/nvpmodel (-q, -p --verbose, -m ID), PREFIX/etc/nv_tegra_release."""
    modes = list(enumerate(board.modes))
    script = _NVPMODEL.format(
        names="\n".join(f"    {number}) name={mode} ;;" for number, mode in modes),
        table="\n".join(f"NVPM VERB: POWER_MODEL: ID={n} NAME={mode}" for n, mode in modes),
        first=board.modes[0],
    )
    major, minor = board.l4t.split(".", 1)
    release = (
        f"# R{major} (release), REVISION: {minor}, GCID: 0, BOARD: generic, EABI: aarch64"
    )
    for name, text in (("usr/bin/nvpmodel", script), ("etc/nv_tegra_release", release)):
        (prefix / name).parent.mkdir(parents=True, exist_ok=True)
        put(prefix / name, text)
    (prefix / "usr/bin/nvpmodel").chmod(0o755)
