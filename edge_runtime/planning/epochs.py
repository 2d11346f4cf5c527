"""How many whole epochs a budget gives: at most, and those that keep the most token-blocks.

Pure arithmetic, like `edge_runtime.planning.mix`. An epoch is a `Workload` with the steps of
one epoch. Energy and time limit the number; memory and mean power only decide how.

A share of time and energy is left free, since costs may rise and a run that its budget ends
before its last epoch has wasted the schedule of its learning rate. The governor keeps as much.

With more epochs the steps have to move to lower rungs. The token-blocks that are kept rise up
to some number of epochs and fall after it, except for single steps and for loading rungs. So
the search looks at a grid, then at a finer one around its best point, and finally at every
number.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from edge_runtime.errors import ConfigError
from edge_runtime.facts import Budget
from edge_runtime.facts.budget import ENERGY, POWER, TIME
from edge_runtime.planning.mix import Mix, Workload, best_mix, why_unusable

POINTS = 32  # of a grid: that many numbers of epochs are all tried
RESERVE = 0.01  # of time and energy
AS_GOOD = 0.98  # of the token-blocks, on fewer rungs


class EpochChoice(NamedTuple):
    """A number of epochs, and why."""

    epochs: int
    reason: str  # for people: why not one more


def require_bounded(budget: Budget) -> None:
    """Refuse a budget that any number of epochs fits.

    Raises:
        ConfigError: neither time nor energy is limited.
    """
    if not budget.is_bounded:
        raise ConfigError(
            "--epochs auto needs --time or --energy: without one of them, any number of "
            "epochs fits. Give a limit, or --epochs N."
        )


def best_epochs(epoch: Workload, budget: Budget) -> EpochChoice | None:
    """The number of epochs that keeps the most token-blocks.

    Of numbers that keep nearly as many, it is the one whose mix has the fewest rungs.

    Args:
        epoch: the steps of one epoch, and the rungs.
        budget: limits of the run.

    Returns:
        The choice; `None` if not even one epoch fits.

    Raises:
        ConfigError: neither time nor energy is limited.
        DeviceError: energy or power is limited and no rung's energy is known.
    """
    require_bounded(budget)
    reserved = _reserved(budget)
    most = most_epochs(epoch, reserved)
    if not most:  # an epoch that needs the reserve is better than none
        return EpochChoice(1, "2 do not fit") if best_mix(epoch, budget) else None
    mixes: dict[int, Mix] = {}

    def kept(epochs: int) -> int:
        mix = _mix_of(epoch, reserved, epochs)
        if mix is not None:
            mixes[epochs] = mix
        return -1 if mix is None else mix.token_blocks

    low, high = bracket_maximum(kept, most)
    alone = {epochs_on(cost.rung, epoch, budget) for cost in epoch.costs}
    for epochs in sorted({*range(low, high + 1), *alone} - {0}):
        kept(epochs)
    enough = AS_GOOD * max(mix.token_blocks for mix in mixes.values())
    good = [number for number, mix in mixes.items() if mix.token_blocks >= enough]
    epochs = min(good, key=lambda n: (len(mixes[n].counts), -mixes[n].token_blocks, n))
    more = _mix_of(epoch, reserved, epochs + 1)
    return EpochChoice(epochs, _why_not_more(epochs + 1, mixes[epochs], more))


def epochs_on(rung: str, epoch: Workload, budget: Budget) -> int:
    """Whole epochs on one rung alone that fit, with the reserve; 0: not one.

    Raises:
        ConfigError: neither time nor energy is limited.
    """
    require_bounded(budget)
    (cost,) = [cost for cost in epoch.costs if cost.rung == rung]
    if why_unusable(cost, budget, epoch.room_bytes) is not None:
        return 0
    alone = replace(epoch, costs=(cost,))
    return most_epochs(alone, _reserved(budget)) or int(best_mix(alone, budget) is not None)


def most_epochs(epoch: Workload, budget: Budget) -> int:
    """Whole epochs that fit, whatever they keep; 0: not one.

    Without the limit of power, fewer epochs always fit as well. With it, the first ones may
    not, since a start-up at a higher power weighs less in a longer run, and the last ones may
    not, since idling takes time. The search then begins where some number on a grid fits.
    """
    unlimited = budget.with_limit(POWER, None)
    most = _last_that_fits(epoch, unlimited, 0, None)
    if not most or budget.power_w is None or _mix_of(epoch, budget, most):
        return most
    grid = sorted({most * point // POINTS for point in range(1, POINTS)} - {0}, reverse=True)
    for below, number in pairwise([most, *grid]):
        if _mix_of(epoch, budget, number):
            return _last_that_fits(epoch, budget, number, below)
    return 0


def _last_that_fits(epoch: Workload, budget: Budget, enough: int, too_many: int | None) -> int:
    """The last of the numbers that fit from `enough` on; all after it are too many.

    Args:
        epoch: the steps of one epoch.
        budget: limits of the run.
        enough: a number that fits, or 0.
        too_many: one that does not fit; `None`: not known yet.
    """
    if too_many is None:
        too_many = enough + 1
        while _mix_of(epoch, budget, too_many):
            enough, too_many = too_many, 2 * too_many
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        fits = _mix_of(epoch, budget, middle) is not None
        enough, too_many = (middle, too_many) if fits else (enough, middle)
    return enough


def bracket_maximum(kept: Callable[[int], int], most: int) -> tuple[int, int]:
    """Numbers of epochs between which the most is kept, at most `POINTS` apart."""
    low, high = 1, most
    while high - low > POINTS:
        grid = [low + (high - low) * point // POINTS for point in range(POINTS + 1)]
        best = max(range(POINTS + 1), key=lambda point: kept(grid[point]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, POINTS)]
    return low, high


def _mix_of(epoch: Workload, budget: Budget, epochs: int) -> Mix | None:
    return best_mix(replace(epoch, steps=epochs * epoch.steps), budget)


def _reserved(budget: Budget) -> Budget:
    for limit in (TIME, ENERGY):
        if (value := budget.value(limit)) is not None:
            budget = budget.with_limit(limit, (1 - RESERVE) * value)
    return budget


def _why_not_more(epochs: int, mix: Mix, more: Mix | None) -> str:
    if more is None:
        return f"{epochs} do not fit"
    if more.token_blocks <= mix.token_blocks:
        return f"{epochs} would keep fewer token-blocks"
    return f"{epochs} would keep hardly more token-blocks, on {len(more.counts)} rungs"
