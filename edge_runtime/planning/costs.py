"""Overhead, interpolation, smoothing and predicted memory, from measured costs.

Units: seconds, joules, watts, bytes. Pure: everything is measured elsewhere.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import mul

from edge_runtime.facts import CostProfile, RungCost
from edge_runtime.facts.costs import EXTRAPOLATED, INTERPOLATED, MEASURED, UNMEASURED
from edge_runtime.package.before_steps import encoders
from edge_runtime.package.manifest import Manifest, Rung, TeacherFirst
from edge_runtime.package.names import NEXT, STATE

_LEAST_RUNGS = 3  # costs: with two, the line fits exactly
_BEST_PRECISION = 1e-3  # of a step's time: the clock's accuracy

# Fitted to the rungs in docs/results.md.
ARENA = 1.04  # size of the runtime's arena over what a package says of its tensors
NODE_BYTES = 3_800  # of a loaded graph, per node of its file
# Of a run's process without its rung, for those that are not such a process: x86-64.
RUN_BYTES = 100 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Costs of a run besides its steps. The planner reserves them."""

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


def overhead_of(
    profile: CostProfile, *, late_s: float = 0.0, late_j: float | None = 0.0
) -> Overhead:
    """The profile's costs besides steps; unmeasured joules at the highest known power.

    Args:
        profile: of the board.
        late_s: by which the start-up takes longer than profiled.
        late_j: of that time; `None`: unknown.
    """
    powers_w = [cost.power_w for cost in profile.rungs if cost.power_w is not None]
    most_w = max(powers_w, default=None)

    def at_most_w(duration_s: float) -> float | None:
        return None if most_w is None else most_w * duration_s

    startup_j, checkpoint_j = at_most_w(profile.startup_s), profile.checkpoint_j
    late_j = at_most_w(late_s) if late_j is None else late_j
    return Overhead(
        startup_s=profile.startup_s + late_s,
        startup_j=None if startup_j is None or late_j is None else startup_j + late_j,
        switch_s=profile.switch_s,
        switch_j=at_most_w(profile.switch_s),
        checkpoint_s=profile.checkpoint_s,
        checkpoint_j=at_most_w(profile.checkpoint_s) if checkpoint_j is None else checkpoint_j,
        idle_w=profile.idle_w,
    )


def training_order(cost: RungCost) -> tuple[int, float]:
    """Sorts rungs as a run trains them: from few to many token-blocks.

    Of equal ones the slower is first: it has micro-batches, and needs less memory.
    """
    return cost.token_blocks, -(cost.step_s or 0.0)


def interpolate(costs: Sequence[RungCost]) -> tuple[RungCost, ...]:
    """Estimate time and energy of unmeasured rungs from those of the measured ones.

    Between two of them both are linear in FLOPs. Outside, they are at most in proportion to
    FLOPs, since a part of every step is the same, and at least those of the next rung. Only
    rungs with micro-batches of the same size are compared; without a measured one, a rung
    stays unmeasured.
    """
    return tuple(
        _estimated(cost, costs) if cost.source == UNMEASURED else cost for cost in costs
    )


def ladder_costs(profile: CostProfile, ladder: Sequence[Rung]) -> tuple[RungCost, ...]:
    """Costs of the rungs of a ladder, all of which train the same parameters.

    Unmeasured ones are estimated from the others. In the order of the profile, without those
    that it lacks.
    """
    ids = {rung.id for rung in ladder}
    return interpolate([cost for cost in profile.rungs if cost.rung in ids])


def with_decoding(costs: Sequence[RungCost], decoding_bytes: int) -> tuple[RungCost, ...]:
    """Costs on pictures whose decoding takes that memory; they were measured on tiny ones."""

    def more(size_bytes: int | None) -> int | None:
        return None if size_bytes is None else size_bytes + decoding_bytes

    return tuple(
        replace(
            cost,
            peak_bytes=more(cost.peak_bytes),
            predicted_peak_bytes=more(cost.predicted_peak_bytes),
        )
        for cost in costs
    )


def _estimated(cost: RungCost, costs: Sequence[RungCost]) -> RungCost:
    alike = [other for other in costs if other.micro_batch == cost.micro_batch]
    measured = sorted(
        (other for other in alike if other.source == MEASURED), key=lambda other: other.flops
    )
    if not measured:
        return cost
    below = [other for other in measured if other.flops <= cost.flops]
    above = [other for other in measured if other.flops >= cost.flops]
    if below and above:
        return _between(cost, below[-1], above[0])
    nearest = below[-1] if below else above[0]
    factor = max(1.0, cost.flops / nearest.flops) if nearest.flops else 1.0
    return replace(
        cost,
        step_s=_times(factor, nearest.step_s),
        step_j=_times(factor, nearest.step_j),
        power_w=nearest.power_w,
        source=EXTRAPOLATED,
    )


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _between(cost: RungCost, low: RungCost, high: RungCost) -> RungCost:
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


def smooth(costs: Sequence[RungCost]) -> list[RungCost]:
    """Move measured costs towards a straight line over FLOPs: less noise between rungs.

    The time of a step is nearly linear in its FLOPs. Where the measured times of a rung
    disagree, the line through all rungs is the better estimate; where they agree, they are.

    With `h` half the interval of a rung and `d` its distance from the line, it moves by
    `d * h**2 / (h**2 + d**2)`: nearly all of `d` if `d` is small against `h`, nearly nothing
    if it is large. It never leaves the interval that was measured. Power is unchanged: it was
    read continuously.
    """
    measured = [cost for cost in costs if cost.source == MEASURED and cost.step_s]
    if len({cost.flops for cost in measured}) < _LEAST_RUNGS:
        return list(costs)
    line_s = _line(measured)
    return [_nearer(cost, line_s) if cost in measured else cost for cost in costs]


def _nearer(cost: RungCost, line_s: Callable[[float], float]) -> RungCost:
    before_s, h = cost.step_s or 0.0, _half_interval_s(cost)
    d = line_s(cost.flops) - before_s
    low_s, high_s = cost.step_s_low or before_s, cost.step_s_high or before_s
    step_s = min(max(before_s + d * h**2 / (h**2 + d**2), low_s), high_s)
    step_j = None if cost.step_j is None else cost.step_j * step_s / before_s
    return replace(cost, step_s=step_s, step_j=step_j)


def _half_interval_s(cost: RungCost) -> float:
    half_s = ((cost.step_s_high or 0.0) - (cost.step_s_low or 0.0)) / 2
    return max(half_s, _BEST_PRECISION * (cost.step_s or 0.0))


def _line(costs: Sequence[RungCost]) -> Callable[[float], float]:
    """Weighted least squares; the weight of a rung is the precision of its time."""
    weights = [1 / _half_interval_s(cost) ** 2 for cost in costs]

    def mean(values: Sequence[float]) -> float:
        return math.fsum(map(mul, weights, values)) / math.fsum(weights)

    mean_flops = mean([cost.flops for cost in costs])
    mean_s = mean([cost.step_s or 0.0 for cost in costs])
    away = [cost.flops - mean_flops for cost in costs]
    both = mean([x * (c.step_s or 0.0) for x, c in zip(away, costs, strict=True)])
    slope = both / mean([x * x for x in away])
    return lambda flops: mean_s + slope * (flops - mean_flops)


def predicted_peak_bytes(manifest: Manifest, rung: Rung, baseline_bytes: int) -> int:
    """Peak resident memory of a process that trains this rung with engine `ort`.

    Args:
        manifest: of the package.
        rung: one of it.
        baseline_bytes: memory of the same process with the runtime loaded, without
            state, weights and the images of the next step.
    """
    periodic = (each.graph for each in manifest.periodic)
    paths = [*rung.graphs.values(), *periodic, *manifest.forward_graphs]
    graphs = [manifest.graphs[path] for path in paths]
    outputs = [spec for graph in graphs for spec in graph.outputs if spec.role == STATE]
    changed = {spec.name.removeprefix(NEXT) for spec in outputs}
    # These graphs read the old state and write the new values of what they change.
    written_bytes = sum(spec.size_bytes for spec in manifest.state if spec.name in changed)
    nodes = sum(graph.nodes for graph in graphs)
    kept_bytes = manifest.state_bytes + manifest.forward_weight_bytes + _handed_bytes(manifest)
    held_bytes = baseline_bytes + kept_bytes + written_bytes + NODE_BYTES * nodes
    return held_bytes + round(ARENA * rung.peak_activation_bytes)


def _handed_bytes(manifest: Manifest) -> int:
    """Size of what encoders before a step hand over to it: features, float32.

    The arena of an encoder keeps those of its last run, too. A delayed teacher writes the
    features of the next step, whose images are held for it, while a step reads its own.
    """
    rows = {group.name: manifest.batch_size * len(group.views) for group in manifest.views}
    size_bytes = 0
    for encoder, _, _ in encoders(manifest):
        ahead = encoder.delay if isinstance(encoder, TeacherFirst) else 0
        features = manifest.graphs[encoder.graph].features
        whole = (1 + ahead) * sum(rows[group] for group in encoder.groups)
        size_bytes += features.size_bytes + whole * features.row_bytes
        size_bytes += ahead * manifest.batch_bytes
    return size_bytes
