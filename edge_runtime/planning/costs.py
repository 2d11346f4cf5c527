"""The file of a cost profile, format 1, and what follows from its numbers.

Reads and writes that file and nothing else; what it holds is measured elsewhere.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edge_runtime.errors import DeviceError, RecordsError
from edge_runtime.facts import CostProfile, RungCost
from edge_runtime.facts.costs import INTERPOLATED, MEASURED, SOURCES, UNMEASURED
from edge_runtime.schema import structure, unstructure
from edge_runtime.storage import storage_errors, write_file

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """What a run costs besides its steps. The planner holds it back."""

    startup_s: float
    startup_j: float | None
    switch_s: float  # per rung used
    switch_j: float | None
    checkpoint_s: float  # the last one, to the exit
    checkpoint_j: float | None
    idle_w: float | None  # while the run pauses

    @property
    def fixed_s(self) -> float:
        """Start-up and last checkpoint."""
        return self.startup_s + self.checkpoint_s

    @property
    def fixed_j(self) -> float | None:
        """Start-up and last checkpoint."""
        if self.startup_j is None or self.checkpoint_j is None:
            return None
        return self.startup_j + self.checkpoint_j


def overhead_of(profile: CostProfile) -> Overhead:
    """The profile's costs besides steps; unmeasured joules at the hungriest rung's power."""
    powers_w = [cost.power_w for cost in profile.rungs if cost.power_w is not None]
    most_w = max(powers_w, default=None)

    def at_most_w(duration_s: float) -> float | None:
        return None if most_w is None else most_w * duration_s

    checkpoint_j = profile.checkpoint_j
    return Overhead(
        startup_s=profile.startup_s,
        startup_j=at_most_w(profile.startup_s),
        switch_s=profile.switch_s,
        switch_j=at_most_w(profile.switch_s),
        checkpoint_s=profile.checkpoint_s,
        checkpoint_j=at_most_w(profile.checkpoint_s) if checkpoint_j is None else checkpoint_j,
        idle_w=profile.idle_w,
    )


def save_profile(profile: CostProfile, path: Path) -> None:
    """Write a profile, complete or not at all.

    Raises:
        StorageError: the disk is full, read-only or gone.
    """
    with storage_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(unstructure(profile), indent=2) + "\n").encode())


def load_profile(path: Path) -> CostProfile:
    """Read a profile.

    Raises:
        DeviceError: there is no such file.
        RecordsError: it is damaged or of another format; every problem is listed.
    """
    try:
        table = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DeviceError(
            f"there is no cost profile {path}. Measure one on the board with "
            f"`edge-train profile PKG -o {path}`."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecordsError(
            f"cost profile {path} cannot be read ({reason}). Measure again with "
            "`edge-train profile PKG`."
        ) from error
    found = table.get("format") if isinstance(table, dict) else None
    if found != FORMAT:
        raise RecordsError(
            f"cost profile {path}: format {found!r} is unknown; this edge-train reads format "
            f"{FORMAT}. Measure again with `edge-train profile PKG`."
        )
    where = f"cost profile {path}"
    profile = structure(CostProfile, table, where=where, error=RecordsError)
    if problems := _problems_of(profile):
        lines = [f"{where}: {len(problems)} problem(s)", *problems]
        raise RecordsError("\n  ".join(lines))
    return profile


def _problems_of(profile: CostProfile) -> list[str]:
    """Values that no measurement gives."""
    problems = _negative(profile, "")
    names = [cost.rung for cost in profile.rungs]
    problems += [f"rungs: {name} is there twice" for name in {*names} if names.count(name) > 1]
    if not names:
        problems.append("rungs: there are none")
    for index, cost in enumerate(profile.rungs):
        place = f"rungs[{index}]."
        problems += _negative(cost, place)
        if cost.source not in SOURCES:
            known = ", ".join(SOURCES)
            problems.append(f"{place}source: {cost.source!r} is unknown; known are {known}")
        if cost.source in (MEASURED, INTERPOLATED) and not cost.step_s:
            problems.append(f"{place}step_s: a {cost.source} rung takes time")
    return sorted(problems)


def _negative(record: CostProfile | RungCost, place: str) -> list[str]:
    """Numbers below zero, or not finite."""
    values: dict[str, Any] = {item.name: getattr(record, item.name) for item in fields(record)}
    return [
        f"{place}{name}: want a number from 0, got {value!r}"
        for name, value in values.items()
        if isinstance(value, int | float) and not 0 <= value < math.inf
    ]


def check_fits(
    profile: CostProfile,
    *,
    package_digest: str,
    board: str,
    power_mode: str | None,
    engine: str,
    runtime: str,
    threads: int | None,
) -> None:
    """Refuse a profile that was measured under other conditions.

    Raises:
        DeviceError: it names each difference.
    """
    wanted = {
        "package": (profile.package_digest[:12], package_digest[:12]),
        "board": (profile.board, board),
        "power mode": (profile.power_mode, power_mode),
        "engine": (profile.engine, engine),
        "runtime": (profile.runtime, runtime),
        "threads": (profile.threads or "all processors", threads or "all processors"),
    }
    different = [
        f"  {name}: measured with {_shown(found)}, here {_shown(here)}"
        for name, (found, here) in wanted.items()
        if found != here
    ]
    if different:
        lines = "\n".join(different)
        raise DeviceError(
            f"the cost profile of {profile.created_at} does not hold here:\n{lines}\n"
            "Measure again with `edge-train profile PKG`."
        )


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def interpolate(costs: Sequence[RungCost]) -> tuple[RungCost, ...]:
    """Fill unmeasured rungs between measured ones: time and energy, linear in FLOPs.

    A rung outside the measured ones stays unmeasured.
    """
    measured = sorted(
        (cost for cost in costs if cost.source == MEASURED), key=lambda cost: cost.flops
    )
    return tuple(
        _between(cost, measured) if cost.source == UNMEASURED else cost for cost in costs
    )


def _between(cost: RungCost, measured: Sequence[RungCost]) -> RungCost:
    below = [other for other in measured if other.flops <= cost.flops]
    above = [other for other in measured if other.flops >= cost.flops]
    if not below or not above:
        return cost
    low, high = below[-1], above[0]
    width = high.flops - low.flops
    share = (cost.flops - low.flops) / width if width else 0.0

    def blend(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a + share * (b - a)

    step_s, step_j = blend(low.step_s, high.step_s), blend(low.step_j, high.step_j)
    return replace(
        cost,
        step_s=step_s,
        step_j=step_j,
        power_w=None if step_j is None or not step_s else step_j / step_s,
        source=INTERPOLATED,
    )
