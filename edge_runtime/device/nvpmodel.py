"""nvpmodel, the program that sets the power mode of a Jetson.

A mode has a number and a name. The board keeps it over restarts. Modes that switch other parts
of the GPU off need a restart once the GPU was used, in at least one direction: nvpmodel then
asks whether to restart the board. Such modes are never set, and it is never answered yes.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edge_runtime.device.files import text
from edge_runtime.errors import ConfigError, ModeError

_STATUS = re.compile(r"pmode:(\d+)")
_ANSWER = re.compile(r"NV Power Mode:\s*(\S+)")
# In /etc/nvpmodel.conf, and as `nvpmodel -p --verbose` prints it.
_MODE = re.compile(r"POWER_MODEL:?\s+ID=(\d{1,6})\s+NAME=([^\s>]+)")
_GATING = re.compile(r"(\w*POWER_GATING)\s+\w+\s+(\w+)")
_ASKS = re.compile("reboot", re.IGNORECASE)
_CONF = "etc/nvpmodel.conf"
_LONGEST_S = 30.0  # setting a mode takes about a second


def nvpmodel_mode(root: Path = Path("/")) -> str | None:
    """The mode's name; `None` on boards without nvpmodel.

    nvpmodel keeps the number of its mode in a file. Before a mode was ever chosen there is no
    such file, and the program is asked.
    """
    return _from_files(root) or (_from_program() if root == Path("/") else None)


def _from_files(root: Path) -> str | None:
    status = _STATUS.search(text(root / "var/lib/nvpmodel/status") or "")
    if status is None:
        return None
    modes = _modes_of(text(root / _CONF) or "")
    return next((mode.name for mode in modes if mode.number == int(status[1])), None)


def _from_program() -> str | None:
    name = _ANSWER.search(_run("-q").output)
    return name[1] if name else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mode:
    number: int
    name: str
    gating: dict[str, str]  # which parts of the GPU are switched off


def _modes_of(table: str) -> list[_Mode]:
    """The modes in the lines of a table, in their order."""
    modes: list[_Mode] = []
    for line in table.splitlines():
        if line.lstrip().startswith("#"):
            continue
        if match := _MODE.search(line):
            modes.append(_Mode(number=int(match[1]), name=match[2], gating={}))
        elif modes and (match := _GATING.search(line)):
            modes[-1].gating[match[1]] = match[2]
    return modes


class _Done(NamedTuple):
    code: int | None  # None: it was not run to its end
    output: str


def _run(*words: str) -> _Done:
    """Run nvpmodel, without a terminal that could answer its question."""
    try:
        done = subprocess.run(
            ["nvpmodel", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST_S,
            start_new_session=True,  # Ctrl-C is for this process alone
        )
    except (OSError, subprocess.SubprocessError) as error:  # as where there is no Jetson
        return _Done(None, str(error))
    return _Done(done.returncode, f"{done.stdout}\n{done.stderr}")


class Nvpmodel:
    """The modes of a Jetson."""

    kind = "nvpmodel"

    def __init__(self, root: Path = Path("/")) -> None:
        """List them."""
        self._root = root
        listed = _modes_of(_run("-p", "--verbose").output) if root == Path("/") else []
        described = {mode.number: mode for mode in _modes_of(text(root / _CONF) or "")}
        self._modes = {mode.name: described.get(mode.number, mode) for mode in listed}

    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._modes)

    def resolve(self, name: str) -> str:
        """The name itself.

        Raises:
            ConfigError: there is no such mode.
        """
        if name in self._modes:
            return name
        raise ConfigError(
            f"there is no power mode {name!r}; nvpmodel has {', '.join(self._modes)}"
        )

    def current(self) -> str | None:
        """The mode that is set."""
        return nvpmodel_mode(self._root)

    def set(self, name: str) -> None:
        """Set a mode that needs no restart.

        Raises:
            ModeError: it is not set, and why.
        """
        if gates := self._other_gates(name):
            raise ModeError(
                f"it needs a restart of the board: {gates}. Set it yourself, restart, and "
                "measure it with `edge-train profile`"
            )
        self._set_number(self._modes[name].number, name)

    def _other_gates(self, name: str) -> str | None:
        """In what a mode differs from the present one that only a restart changes."""
        now = self._modes.get(self.current() or "")
        if now is None:
            return None
        gating = self._modes[name].gating
        return ", ".join(
            f"{gate} is {now.gating[gate]} now and {value} in {name}"
            for gate, value in gating.items()
            if now.gating.get(gate, value) != value
        )

    def _set_number(self, number: int, name: str) -> None:
        done = _run("-m", str(number))
        if self.current() == name:
            return
        if _ASKS.search(done.output):
            raise ModeError(
                "nvpmodel would restart the board for it, and was not allowed to. Set it "
                "yourself, restart, and measure it with `edge-train profile`"
            )
        lines = done.output.split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        raise ModeError(
            f"`nvpmodel -m {number}` did not set it: {said or f'it ended with {done.code}'}"
        )

    def is_within(self, name: str) -> bool:
        """Whether it is set: heat does not change what nvpmodel says."""
        return self.current() == name

    def state(self) -> dict[str, str]:
        """The number of the mode that is set, and its name.

        Raises:
            ModeError: it is unknown.
        """
        now = self._modes.get(self.current() or "")
        if now is None:
            raise ModeError(
                "the present power mode is unknown and could not be put back: `nvpmodel -q` "
                "names none that `nvpmodel -p --verbose` lists"
            )
        return {"number": str(now.number), "name": now.name}

    def put_back(self, state: dict[str, str]) -> None:
        """Set the mode of a state.

        Raises:
            ModeError: it is not set.
        """
        number, name = state.get("number", ""), state.get("name", "")
        if self.current() == name:
            return
        try:
            mode = self._modes[name]
            self._set_number(mode.number, name)
        except (KeyError, ModeError) as error:
            raise ModeError(
                f"the power mode {name} that was set before could not be put back ({error}). "
                f"Set it with `sudo nvpmodel -m {number}`; it is {self.current()} now."
            ) from error
