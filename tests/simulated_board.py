"""A simulated board: a governed run on it takes no time.

It follows a governor's decisions, spends its true costs, warms up and cools down.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from edge_runtime.facts import Budget, RungCost
from edge_runtime.planning import (
    TOKEN_BLOCKS,
    Decision,
    Governor,
    Objective,
    Overhead,
    Reading,
)
from edge_runtime.planning.mix import Workload, best_mix

OVERHEAD = Overhead(
    startup_s=1.5,
    startup_j=9.0,
    switch_s=0.4,
    switch_j=4.0,
    checkpoint_s=0.2,
    checkpoint_j=1.2,
    idle_w=3.0,
)
FREE = Overhead(
    startup_s=0.0,
    startup_j=0.0,
    switch_s=0.0,
    switch_j=0.0,
    checkpoint_s=0.0,
    checkpoint_j=0.0,
    idle_w=None,
)


def rung_cost(rung: str, token_blocks: int, step_s: float, power_w: float | None, **known):
    """A measured cost; further fields by name."""
    step_j = None if power_w is None else step_s * power_w
    facts = {
        "flops": 1000 * token_blocks,
        "step_s_low": step_s,
        "step_s_high": step_s,
        "peak_bytes": 1_000_000 * token_blocks,
        "predicted_peak_bytes": None,
        "source": "measured",
    } | known
    return RungCost(
        rung=rung,
        token_blocks=token_blocks,
        step_s=step_s,
        step_j=step_j,
        power_w=power_w,
        **facts,
    )


LADDER = (
    rung_cost("k100", 400, 0.20, 10.0),
    rung_cost("k075", 300, 0.155, 10.0),
    rung_cost("k050", 200, 0.11, 9.8),
    rung_cost("k025", 100, 0.065, 9.5),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Arguments of `decide`: the run until now."""

    time_s: float
    energy_j: float | None


@dataclass(kw_only=True)
class Board:
    """True costs: those of the profile times ratios, which may depend on the step."""

    time_ratio: Callable[[int], float] = lambda step: 1.0
    power_ratio: Callable[[int], float] = lambda step: 1.0
    own_ratio: dict[str, float] = field(default_factory=dict)  # rung -> of its time
    is_slow_throughout: bool = False  # the ratios hold for start, switches and end, too
    noise: float = 0.02  # standard deviation of a step's time, relative
    has_sensor: Callable[[int], bool] = lambda step: True
    idle_w: float = 3.0
    ambient_c: float = 25.0
    c_per_w: float = 4.0
    warming_s: float = 30.0
    pressure: Callable[[int], float] = lambda step: 0.0
    rss_bytes: Callable[[str], int | None] = lambda rung: None
    room_bytes: Callable[[int], int | None] = lambda step: None
    seed: int = 0


@dataclass(kw_only=True)
class Outcome:
    """The result of a run."""

    steps: int = 0
    token_blocks: int = 0
    time_s: float = 0.0
    energy_j: float = 0.0
    hottest_c: float = 0.0
    stopped_by: str | None = None
    rungs: list[str] = field(default_factory=list)  # of every step
    decisions: list[Decision] = field(default_factory=list)
    calls: list[tuple] = field(default_factory=list)  # arguments, in order

    @property
    def switches(self) -> int:
        return sum(a != b for a, b in zip(self.rungs, self.rungs[1:], strict=False))

    @property
    def mean_w(self) -> float:
        return self.energy_j / self.time_s

    @property
    def paused_s(self) -> float:
        return sum(decision.pause_s or 0.0 for decision in self.decisions)


class _Simulation:
    def __init__(self, costs, overhead: Overhead, board: Board) -> None:
        self.costs = {cost.rung: cost for cost in costs}
        self.overhead, self.board = overhead, board
        self.random = random.Random(board.seed)
        self.temperature_c = board.ambient_c + board.c_per_w * board.idle_w
        self.outcome = Outcome()

    def spend(self, duration_s: float, power_w: float) -> None:
        board, outcome = self.board, self.outcome
        outcome.time_s += duration_s
        outcome.energy_j += duration_s * power_w
        goal_c = board.ambient_c + board.c_per_w * power_w
        share = math.exp(-duration_s / board.warming_s)
        self.temperature_c = goal_c + (self.temperature_c - goal_c) * share
        outcome.hottest_c = max(outcome.hottest_c, self.temperature_c)

    def work(self, duration_s: float, energy_j: float | None) -> None:
        """Something of the overhead, slower and dearer like the steps where the board is."""
        if not duration_s:
            return
        board, step = self.board, self.outcome.steps
        slower = board.time_ratio(step) if board.is_slow_throughout else 1.0
        power_w = (energy_j or 0.0) / duration_s
        if board.is_slow_throughout:
            power_w *= board.power_ratio(step)
        self.spend(slower * duration_s, power_w)

    def train(self, rung: str, before: str | None) -> tuple[float, float]:
        """One step: its costs, with loading its rung."""
        outcome, board, overhead = self.outcome, self.board, self.overhead
        step, cost = outcome.steps, self.costs[rung]
        begin_s, begin_j = outcome.time_s, outcome.energy_j
        if rung != before:
            self.work(overhead.switch_s, overhead.switch_j)
        ratio = board.time_ratio(step) * board.own_ratio.get(rung, 1.0)
        noise = max(0.2, self.random.gauss(1.0, board.noise))
        power_w = (cost.step_j or 0.0) / cost.step_s * board.power_ratio(step)
        self.spend(cost.step_s * ratio * noise, power_w)
        outcome.steps += 1
        outcome.token_blocks += cost.token_blocks
        outcome.rungs.append(rung)
        return outcome.time_s - begin_s, outcome.energy_j - begin_j


def simulate(
    budget: Budget,
    steps: int,
    *,
    costs=LADDER,
    overhead: Overhead = OVERHEAD,
    board: Board | None = None,
    objective: Objective = TOKEN_BLOCKS,
) -> Outcome:
    """A run from process start to exit."""
    governor = Governor(costs, budget, steps=steps, overhead=overhead, objective=objective)
    board = board or Board()
    simulation = _Simulation(costs, overhead, board)
    outcome, rung = simulation.outcome, None
    simulation.work(overhead.startup_s, overhead.startup_j)
    while outcome.steps < steps:
        measured = board.has_sensor(outcome.steps)
        arguments = (
            outcome.steps,
            outcome.time_s,
            Total(time_s=outcome.time_s, energy_j=outcome.energy_j if measured else None),
            Reading(
                temperature_c=simulation.temperature_c,
                held_bytes=board.rss_bytes(rung) if rung else None,
                room_bytes=board.room_bytes(outcome.steps),
                memory_pressure=board.pressure(outcome.steps),
            ),
        )
        decision = governor.decide(*arguments)
        outcome.calls.append(("decide", arguments))
        outcome.decisions.append(decision)
        assert len(outcome.decisions) < 100 * steps  # the run makes progress
        if decision.kind == "stop":
            outcome.stopped_by = decision.stopped_by
            break
        if decision.kind == "pause":
            simulation.spend(decision.pause_s, board.idle_w)
            continue
        assert (decision.kind == "switch") == (decision.rung != rung)
        took_s, took_j = simulation.train(decision.rung, rung)
        loaded, rung = decision.rung != rung, decision.rung
        if not loaded:
            arguments = (rung, took_s, took_j if measured else None)
            governor.observed(*arguments)
            outcome.calls.append(("observed", arguments))
    simulation.work(overhead.checkpoint_s, overhead.checkpoint_j)
    return outcome


def true_costs(costs, board: Board, step: int = 0) -> tuple[RungCost, ...]:
    """Costs of steps on that board from `step` on, without noise."""
    decisions = []
    for cost in costs:
        ratio = board.time_ratio(step) * board.own_ratio.get(cost.rung, 1.0)
        step_j = None
        if cost.step_j is not None:
            step_j = cost.step_j * ratio * board.power_ratio(step)
        decisions.append(replace(cost, step_s=cost.step_s * ratio, step_j=step_j))
    return tuple(decisions)


def assert_kept(outcome: Outcome, budget: Budget, costs=LADDER, dearest: float = 1.0) -> None:
    """Check that no limit is exceeded by more than one step."""
    step_s = dearest * max(cost.step_s for cost in costs)
    if budget.time_s is not None:
        assert outcome.time_s <= budget.time_s + step_s
    if budget.energy_j is not None:
        assert outcome.energy_j <= budget.energy_j + 10.0 * step_s
    if budget.power_w is not None:
        assert outcome.mean_w <= budget.power_w * 1.01


def best_in_hindsight(budget: Budget, steps: int, board: Board) -> int:
    """Token-blocks of the best mix at true costs that do not change."""
    mix = best_mix(
        Workload(costs=true_costs(LADDER, board), steps=steps, overhead=OVERHEAD), budget
    )
    assert mix is not None
    return mix.token_blocks
