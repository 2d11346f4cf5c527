"""The choice between sets of trained parameters: the first one with a feasible plan.

Token-blocks do not compare between rungs that train different parameters, so no plan mixes
them. The order of the sets in a package is the owner's preference.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from edge_runtime.errors import BudgetError, DeviceError

T = TypeVar("T")


def first_feasible(sets: Sequence[str], plan: Callable[[str], T]) -> tuple[T, dict[str, str]]:
    """Plan for the first set that allows it.

    Args:
        sets: names of sets of trained parameters, preferred ones first; at least one.
        plan: plans with the rungs of a set; its `BudgetError` says that no plan is feasible.

    Returns:
        The plan, and by preferred set the reason why it has none.

    Raises:
        BudgetError: no set has a feasible plan, or after such a set comes one that cannot be
            planned; the message has the reason of each.
        DeviceError: the first set cannot be planned.
    """
    refused: dict[str, str] = {}
    for trained in sets:
        try:
            return plan(trained), refused
        except BudgetError as error:
            if len(sets) == 1:
                raise
            refused[trained] = str(error)
        except DeviceError as error:  # its costs are unknown, say
            if not refused:
                raise
            refused[trained] = str(error)
            break
    lines = "".join(f"\n  {trained}: {reason}" for trained, reason in refused.items())
    raise BudgetError(f"no set of trained parameters has a feasible plan:{lines}")
