"""Programs of a board that edge-train calls, and the file that names the release of L4T.

nvpmodel does what the real one is reported to do: it lists its modes, and asks before it sets
one that would need a restart; only YES or yes is an answer.
"""

import shlex
from pathlib import Path

from device_tests.emulated_board.boards import Board, Jetson, Mode
from device_tests.emulated_board.tree import PMIC, put

_NVPMODEL = """#!/bin/sh
state={state}
id=0
[ -r $state ] && read -r id < $state && id=$(expr "$id" : 'pmode:0*\\([0-9]\\)')
mode() {{
    case $1 in
{modes}
        *) echo "NVPM ERROR: no power mode $1"; exit 255 ;;
    esac
}}
case $1 in
    -q) mode "$id"; printf 'NV Power Mode: %s\\n%s\\n' "$name" "$id" ;;
    -m)
        mode "$id"; now=$gates; mode "$2"
        if [ "$gates" != "$now" ]; then
            echo "NVPM WARN: Golden image context is already created"
            echo "NVPM WARN: Reboot required for changing to this power mode: $2"
            echo "NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm: "
            read -r answer
            case $answer in
                YES | yes) echo "$2" >> $state.restarts ;;
                *)
                    echo "NVPM ERROR: bad input!"
                    echo "NVPM ERROR: optMask is 1, no request for power mode"
                    exit 255
                    ;;
            esac
        fi
        printf 'pmode:%04d\\n' "$2" > $state.new && mv $state.new $state || exit 255
{limits}
        ;;
    -p) cat << END ;;
NVPM VERB: PM_CONFIG: DEFAULT={first}(0)
{table}
END
esac"""
_LIMIT = """
        for cpu in {sysfs}/devices/system/cpu/cpu[0-9]*/cpufreq; do
            read -r limit < $cpu/cpuinfo_max_freq
            [ -n "$khz" ] && [ "$khz" -lt "$limit" ] && limit=$khz
            echo "$limit" > $cpu/.limit.new && mv $cpu/.limit.new $cpu/scaling_max_freq
        done"""


def write_tools(
    prefix: Path,
    board: Board,
    *,
    state: str = "/run/nvpmodel.mode",
    sysfs: Path | None = None,
    lists_gates: bool = True,
) -> None:
    """Write the programs into PREFIX/usr/bin, and PREFIX/etc/nv_tegra_release.

    Args:
        prefix: the folder.
        board: a Jetson has nvpmodel (-q, -p --verbose, -m ID), a Raspberry Pi 5 vcgencmd.
        state: file with the mode that is set, as the real /var/lib/nvpmodel/status.
        sysfs: the board's tree, whose clock limits nvpmodel sets; `None`: it sets none.
        lists_gates: whether -p shows what a mode switches off, so that a reader knows which
            ones need a restart.
    """
    if board.jetson is not None:
        major, minor = board.jetson.l4t.split(".", 1)
        release = (
            f"# R{major} (release), REVISION: {minor}, GCID: 0, BOARD: generic, EABI: aarch64"
        )
        _write(prefix / "etc/nv_tegra_release", release)
        if board.jetson.modes:
            script = _nvpmodel(board.jetson, state, sysfs, lists_gates)
            _write(prefix / "usr/bin/nvpmodel", script).chmod(0o755)
    if board.pmic and sysfs is not None:
        script = f"#!/bin/sh\ncat {shlex.quote(str(sysfs / PMIC))}/*"
        _write(prefix / "usr/bin/vcgencmd", script).chmod(0o755)


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path, text)
    return path


def _nvpmodel(jetson: Jetson, state: str, sysfs: Path | None, lists_gates: bool) -> str:
    modes = list(enumerate(jetson.modes))
    settings = [
        f"{number}) name={mode.name} khz={mode.max_khz or ''} gates={mode.gates} ;;"
        for number, mode in modes
    ]
    return _NVPMODEL.format(
        state=shlex.quote(state),
        modes="\n".join(f"        {setting}" for setting in settings),
        limits="" if sysfs is None else _LIMIT.format(sysfs=shlex.quote(str(sysfs))),
        table="\n".join(_described(number, mode, lists_gates) for number, mode in modes),
        first=jetson.modes[0].name,
    )


def _described(number: int, mode: Mode, lists_gates: bool) -> str:
    line = f"NVPM VERB: POWER_MODEL: ID={number} NAME={mode.name}"
    return (
        f"{line}\nNVPM VERB: TPC_POWER_GATING TPC_PG_MASK {mode.gates}"
        if lists_gates
        else line
    )
