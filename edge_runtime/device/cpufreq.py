"""cpufreq, the part of the kernel that sets the clock rate of processor cores.

A mode is a governor and a highest clock rate, such as `schedutil` without a limit below the
hardware's, or `schedutil-1500MHz`. Cores of different kinds have a rate each, in the order of
their numbers: `schedutil-1200+1800MHz`. A restart undoes what was set. Unit: kilohertz, as in
the kernel's files.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edge_runtime.device.files import read_number, sysfs, text
from edge_runtime.errors import ConfigError, ModeError

_NAME = re.compile(r"([a-z_]+(?:\+[a-z_]+)*)(?:-(\d{1,6}(?:\+\d{1,6})*)MHz)?")
_GOVERNOR, _LIMIT = "scaling_governor", "scaling_max_freq"
_SHARES = (1.0, 0.75, 0.5)  # of the highest clock rate: modes that are compared by default
_CONSTANT = ("powersave", "userspace")  # they stay at one rate, whatever the limit
_DYNAMIC_POWERSAVE = ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")  # drivers
_ROUNDING_KHZ = 500


class _Setting(NamedTuple):
    """Of the cores of one kind."""

    governor: str
    max_khz: int


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
        for file, value in ((_GOVERNOR, setting.governor), (_LIMIT, str(setting.max_khz))):
            if text(self.folder / file) == value:
                continue
            try:
                (self.folder / file).write_text(value)
            except OSError as error:
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
        cores = sysfs(root).glob("devices/system/cpu/cpu[0-9]*/cpufreq")
        folders = {path.resolve(): int(path.parent.name[3:]) for path in cores}
        policies = [
            _Policy.read(folder) for folder in sorted(folders, key=folders.__getitem__)
        ]
        self._kinds: dict[tuple[int, int], list[_Policy]] = {}
        for policy in policies:
            if policy is not None:
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
                    f"{', '.join(known)}"
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

    def state(self) -> dict[str, str]:
        """Governor and limit by cores.

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
            state[policy.name] = f"{setting.governor} {setting.max_khz}"
        return state

    def put_back(self, state: dict[str, str]) -> None:
        """Write governors and limits.

        Raises:
            ModeError: one is not set.
        """
        problems: list[str] = []
        commands: list[str] = []
        for policy in self._policies:
            governor, _, limit = state.get(policy.name, "").partition(" ")
            if not governor or not limit.isdecimal() or len(limit) > 9:
                problems.append(f"nothing is known of {policy.name}")
                continue
            setting = _Setting(governor, int(limit))
            try:
                policy.write(setting)
                if policy.setting() != setting:
                    problems.append(f"{policy.folder} reads {policy.setting()}")
            except ModeError as error:
                problems.append(str(error))
            commands += [
                f"echo {value} | sudo tee {policy.folder / file}"
                for file, value in ((_GOVERNOR, governor), (_LIMIT, limit))
            ]
        if problems:
            lines = "\n".join(f"  {command}" for command in commands)
            raise ModeError(
                "the governor and the clock rates that were set before could not be put back "
                f"({'; '.join(problems)}). Restart the board, or run:\n{lines}"
            )


def _following(policy: _Policy, governor: str) -> str:
    """A governor that uses clock rates up to the limit, this one if it does."""
    driver = text(policy.folder / "scaling_driver") or ""
    is_constant = governor in _CONSTANT and driver not in _DYNAMIC_POWERSAVE
    return "performance" if is_constant and "performance" in policy.governors() else governor


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
