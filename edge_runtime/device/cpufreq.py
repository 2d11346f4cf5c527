"""cpufreq, the part of the kernel that sets the clock rate of processor cores.

A mode is a governor and a highest clock rate, such as `schedutil` without a limit below the
hardware's, or `schedutil-1500MHz`. Cores of different kinds have a rate each, in the order of
their numbers: `schedutil-1200+1800MHz`. A restart undoes what was set. Unit: kilohertz, as in
the kernel's files.
"""

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edge_runtime.device.files import read_number, sysfs, text
from edge_runtime.device.thermal import Thermometer
from edge_runtime.errors import ConfigError, ModeError

_NAME = re.compile(r"([a-z_]+(?:\+[a-z_]+)*)(?:-(\d{1,6}(?:\+\d{1,6})*)MHz)?")
_GOVERNOR, _LIMIT = "scaling_governor", "scaling_max_freq"
_SPEED, _BY_HAND = "scaling_setspeed", "userspace"  # the rate of that governor
_SHARES = (1.0, 0.75, 0.5)  # of the highest clock rate: modes that are compared by default
_CONSTANT = ("powersave", _BY_HAND)  # they stay at one rate, whatever the limit
_DYNAMIC_POWERSAVE = ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")  # drivers
_ROUNDING_KHZ = 500
COOLING_S = 5.0  # in which heat may end that lowers a limit that is put back
_LOOK_S = 0.5


class _Setting(NamedTuple):
    """Of the cores of one kind."""

    governor: str
    max_khz: int

    def is_within(self, wanted: "_Setting") -> bool:
        """Whether it is that one but for a lower limit, as heat makes it."""
        is_at_most = _in_mhz(self.max_khz) <= _in_mhz(wanted.max_khz)
        return self.governor == wanted.governor and is_at_most


@dataclass(frozen=True, slots=True, kw_only=True)
class _Policy:
    """Cores that share a clock, and what the hardware allows."""

    folder: Path
    name: str
    low_khz: int
    high_khz: int

    @classmethod
    def read(cls, folder: Path) -> "_Policy | None":
        low, high = (read_number(folder / f"cpuinfo_{end}_freq") for end in ("min", "max"))
        if low is None or high is None:
            return None
        name = folder.parent.name if folder.name == "cpufreq" else folder.name
        return cls(folder=folder, name=name, low_khz=low, high_khz=high)

    def setting(self) -> _Setting | None:
        governor, limit = text(self.folder / _GOVERNOR), read_number(self.folder / _LIMIT)
        return None if not governor or limit is None else _Setting(governor, limit)

    def write(self, setting: _Setting) -> None:
        """Set both.

        Raises:
            ModeError: one cannot be written, and reads otherwise.
        """
        self._write(_GOVERNOR, setting.governor)
        self._write(_LIMIT, str(setting.max_khz))

    def speed_khz(self) -> int | None:
        """The rate of the governor `userspace`; `None`: another one is set."""
        if text(self.folder / _GOVERNOR) != _BY_HAND:
            return None
        return read_number(self.folder / _SPEED)

    def write_speed(self, khz: int) -> None:
        """Set the rate of the governor `userspace`.

        Raises:
            ModeError: it cannot be written, and reads otherwise.
        """
        self._write(_SPEED, str(khz))

    def _write(self, file: str, value: str) -> None:
        """Also if it reads so already: heat may lower what was written to just that."""
        try:
            (self.folder / file).write_text(value)
        except OSError as error:
            if text(self.folder / file) != value:
                raise ModeError(
                    f"{self.folder / file} cannot be written ({error.strerror})"
                ) from error

    def governors(self) -> list[str]:
        return (text(self.folder / "scaling_available_governors") or "").split()

    def steps_khz(self) -> list[int]:
        """The clock rates that there are; empty: any."""
        words = (text(self.folder / "scaling_available_frequencies") or "").split()
        return sorted(int(word) for word in words if word.isdecimal() and len(word) < 10)

    def at_most(self, khz: int) -> int | None:
        """The highest rate that is not above this one; `None`: all are."""
        if khz >= self.high_khz:
            return self.high_khz
        if steps := self.steps_khz():
            return max((step for step in steps if step <= khz), default=None)
        # In whole megahertz, as in the names: else a name and what it sets would differ
        return max(khz // 1000 * 1000, self.low_khz) if khz >= self.low_khz else None


class Cpufreq:
    """The modes of the processor cores."""

    kind = "cpufreq"

    def __init__(self, root: Path = Path("/")) -> None:
        """Find the cores."""
        self._root = root
        folders = {path.resolve(): int(path.parent.name[3:]) for path in _folders(root)}
        policies = [
            policy
            for folder in sorted(folders, key=folders.__getitem__)
            if (policy := _Policy.read(folder)) is not None
        ]
        self._kinds: dict[tuple[int, int], list[_Policy]] = {}
        if len(policies) < len(folders):  # a mode would leave the others out
            return  # `cpufreq_problem` says why
        for policy in policies:
            self._kinds.setdefault((policy.low_khz, policy.high_khz), []).append(policy)

    @property
    def _policies(self) -> list[_Policy]:
        return [policy for policies in self._kinds.values() for policy in policies]

    def _settings(self) -> list[_Setting] | None:
        """Of each kind of cores; `None`: unknown, or it differs among cores of one kind."""
        settings = []
        for policies in self._kinds.values():
            now = {policy.setting() for policy in policies}
            setting = now.pop()
            if setting is None or now:
                return None
            settings.append(setting)
        return settings or None

    def _name(self, settings: Sequence[_Setting]) -> str:
        name = "+".join(_shortest([setting.governor for setting in settings]))
        highest = [high for _, high in self._kinds]
        pairs = zip(settings, highest, strict=True)
        if all(_in_mhz(setting.max_khz) >= _in_mhz(high) for setting, high in pairs):
            return name
        rates = [str(_in_mhz(setting.max_khz)) for setting in settings]
        return f"{name}-{'+'.join(_shortest(rates))}MHz"

    def names(self) -> tuple[str, ...]:
        """The present mode; and its governor at its highest rate, three quarters, and half."""
        now = self._settings()
        if now is None:
            return ()
        governors = [
            _following(policies[0], setting.governor)
            for policies, setting in zip(self._kinds.values(), now, strict=True)
        ]
        modes = [now]
        for share in _SHARES:
            rates = [
                policies[0].at_most(int(share * high)) or low
                for (low, high), policies in self._kinds.items()
            ]
            modes.append([_Setting(*pair) for pair in zip(governors, rates, strict=True)])
        return tuple(dict.fromkeys(self._name(mode) for mode in modes))

    def resolve(self, name: str) -> str:
        """The same mode with the clock rates that there are.

        Raises:
            ConfigError: it is no name of a mode, or there is no such governor or rate.
        """
        return self._name(self._parsed(name))

    def _parsed(self, name: str) -> list[_Setting]:
        match, count = _NAME.fullmatch(name), len(self._kinds)
        if match is None:
            raise ConfigError(
                f"{name!r} is not a power mode; write a governor, or one with the highest "
                f"clock rate, such as {' or '.join(self.names()[:2])}"
            )
        governors = _for_each(match[1].split("+"), count, name)
        rates = _for_each((match[2] or "999999").split("+"), count, name)
        settings = []
        for policies, governor, rate in zip(
            self._kinds.values(), governors, rates, strict=True
        ):
            known = policies[0].governors()
            if governor not in known:
                raise ConfigError(
                    f"power mode {name}: there is no governor {governor!r}; there are "
                    f"{', '.join(known) or 'none in scaling_available_governors'}"
                )
            limit = policies[0].at_most(int(rate) * 1000 + _ROUNDING_KHZ)
            if limit is None:
                lowest = policies[0].low_khz // 1000
                raise ConfigError(
                    f"power mode {name}: {rate} MHz is below the lowest clock rate, "
                    f"{lowest} MHz"
                )
            settings.append(_Setting(governor, limit))
        return settings

    def current(self) -> str | None:
        """The mode that is set; while heat limits the clock, that limit."""
        settings = self._settings()
        return None if settings is None else self._name(settings)

    def set(self, name: str) -> None:
        """Set a mode on all cores.

        Raises:
            ModeError: it is not set, and why; a part of it may be.
        """
        wanted = zip(self._kinds.values(), self._parsed(name), strict=True)
        for policies, setting in wanted:
            for policy in policies:
                policy.write(setting)
        if (now := self.current()) != self.resolve(name):
            raise ModeError(
                f"it was written, but {now or 'an unknown mode'} is read: heat, the firmware, "
                "a lowest clock rate above it or another program prevents it"
            )

    def is_within(self, name: str) -> bool:
        """Whether no core has another governor, or a higher limit, than in this mode."""
        return all(
            (now := policy.setting()) is not None and now.is_within(wanted)
            for policies, wanted in zip(self._kinds.values(), self._parsed(name), strict=True)
            for policy in policies
        )

    def state(self) -> dict[str, str]:
        """Governor and limit by cores, and the rate of the governor `userspace`.

        Raises:
            ModeError: one cannot be read.
        """
        state = {}
        for policy in self._policies:
            setting = policy.setting()
            if setting is None:
                raise ModeError(
                    f"the present power mode could not be put back: {policy.folder} has no "
                    f"{_GOVERNOR} or {_LIMIT} that can be read"
                )
            words = [setting.governor, str(setting.max_khz)]
            if (speed_khz := policy.speed_khz()) is not None:
                words.append(str(speed_khz))
            state[policy.name] = " ".join(words)
        return state

    def put_back(self, state: dict[str, str]) -> str | None:
        """Write governors and limits.

        Returns:
            Which limits heat lowers still; the kernel has what was written, and follows it
            when the board has cooled.

        Raises:
            ModeError: one is not set.
        """
        known = {policy.name for policy in self._policies}
        problems = [f"{name} cannot be reached" for name in state if name not in known]
        commands: list[str] = []
        written: list[tuple[_Policy, _Setting]] = []
        for policy in self._policies:
            words = state.get(policy.name, "").split(" ")
            numbers = words[1:]
            if not words[0] or len(numbers) not in (1, 2) or not all(map(_is_khz, numbers)):
                problems.append(f"nothing is known of {policy.name}")
                continue
            setting = _Setting(words[0], int(numbers[0]))
            try:
                policy.write(setting)
                if numbers[1:]:
                    policy.write_speed(int(numbers[1]))
                written.append((policy, setting))
            except ModeError as error:
                problems.append(str(error))
            commands += [
                f"echo {value} | sudo tee {policy.folder / file}"
                for file, value in zip((_GOVERNOR, _LIMIT, _SPEED), words, strict=False)
            ]
        lowered, others = self._not_read(written)
        problems += [f"{policy.folder} reads {policy.setting()}" for policy in others]
        if problems:
            lines = "\n".join(f"  {command}" for command in commands)
            raise ModeError(
                "the governor and the clock rates that were set before could not be put back "
                f"({'; '.join(problems)}). Restart the board, or run:\n{lines}"
            )
        if not lowered:
            return None
        names = ", ".join(policy.name for policy in lowered)
        return f"heat lowers the clock limit of {names} until the board has cooled"

    def _not_read(
        self, written: "Sequence[tuple[_Policy, _Setting]]"
    ) -> tuple[list[_Policy], list[_Policy]]:
        """Cores that read otherwise than written: those that heat lowers, and others."""
        thermometer, deadline_s = Thermometer(self._root), time.monotonic() + COOLING_S
        try:
            while True:
                is_hot = thermometer.is_throttled()
                read = [(policy, policy.setting(), wanted) for policy, wanted in written]
                rest = [each for each in read if each[1] != each[2]]
                lowered = [p for p, now, wanted in rest if now and now.is_within(wanted)]
                others = [policy for policy, *_ in rest if policy not in lowered]
                if not lowered or others or time.monotonic() > deadline_s:
                    return (lowered, others) if is_hot else ([], others + lowered)
                time.sleep(_LOOK_S)
        finally:
            thermometer.close()


def cpufreq_problem(root: Path = Path("/")) -> str | None:
    """Why the modes of cpufreq cannot be listed; `None`: the kernel has no cpufreq."""
    folders = sorted(_folders(root))
    if not folders:
        return None
    for folder in folders:
        for name in ("cpuinfo_min_freq", "cpuinfo_max_freq", _LIMIT):
            if read_number(folder / name) is None:
                return f"{folder / name} has no clock rate that can be read"
        if not text(folder / _GOVERNOR):
            return f"{folder / _GOVERNOR} cannot be read"
    return "cores of one kind have different governors or limits: set the same for all"


def _folders(root: Path) -> Iterator[Path]:
    """Those of the cores; cores that share a clock have links to one.

    Without those of cores that are offline: while all that share a clock are, the kernel
    refuses to read it.
    """
    for folder in sysfs(root).glob("devices/system/cpu/cpu[0-9]*/cpufreq"):
        if read_number(folder.parent / "online") != 0:
            yield folder


def _following(policy: _Policy, governor: str) -> str:
    """A governor that uses clock rates up to the limit, this one if it does."""
    driver = text(policy.folder / "scaling_driver") or ""
    is_constant = governor in _CONSTANT and driver not in _DYNAMIC_POWERSAVE
    return "performance" if is_constant and "performance" in policy.governors() else governor


def _is_khz(word: str) -> bool:
    return word.isdecimal() and len(word) < 10


def _in_mhz(khz: int) -> int:
    return (khz + _ROUNDING_KHZ) // 1000


def _shortest(words: list[str]) -> list[str]:
    """One word if all are the same."""
    return words[:1] if len(set(words)) == 1 else words


def _for_each(words: list[str], count: int, name: str) -> list[str]:
    if len(words) not in (1, count):
        raise ConfigError(
            f"power mode {name}: this processor has {count} kind(s) of cores, and "
            f"{len(words)} values are given"
        )
    return words if len(words) == count else words * count
