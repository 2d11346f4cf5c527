"""The rungs that a run may train."""

from collections.abc import Callable, Sequence

from edge_runtime.engines import Engine, require_supported, supported_rungs
from edge_runtime.errors import ConfigError
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung


def default_candidates(
    package: Package,
    engine: Engine,
    trained: str | None,
    by_costs: bool,
    report: Callable[[str], None],
) -> dict[str, list[Rung]]:
    """The rungs that may be trained where the caller names none, by what they train.

    Args:
        package: to train.
        engine: that trains it.
        trained: the wanted set of parameters; `None`: with `by_costs` every set, preferred
            ones first, otherwise the first.
        by_costs: whether a plan chooses; otherwise it is the one rung that keeps the most.
        report: called with a line of text.

    Raises:
        ConfigError: no rung trains this set.
        EngineError: the engine can train none of the rungs of a set.
    """
    sets = package.trained_sets(trained)
    if by_costs:
        ladders = {name: package.ladder(name) for name in sets}
        return {
            name: supported_rungs(engine, package, ladder, report)
            for name, ladder in ladders.items()
        }
    return {sets[0]: supported_rungs(engine, package, package.largest_rungs(sets[0]))[:1]}


def chosen_candidates(
    package: Package,
    engine: Engine,
    rungs: Sequence[str],
    trained: str | None,
    skip_unsupported: bool,
    report: Callable[[str], None],
) -> dict[str, list[Rung]]:
    """The rungs that the caller names, by what they train.

    Raises:
        ConfigError: as of `chosen_rungs`.
        EngineError: the engine cannot train one, or, with `skip_unsupported`, any of them.
    """
    chosen = chosen_rungs(package, rungs, trained)
    if skip_unsupported:
        chosen = supported_rungs(engine, package, chosen, report)
    for rung in chosen:
        require_supported(engine, package, rung)
    return {chosen[0].trained: chosen}


def chosen_rungs(package: Package, rungs: Sequence[str], trained: str | None) -> list[Rung]:
    """Rungs by their ids, each once.

    Raises:
        ConfigError: the package has no such rung, they train different parameters or others
            than `trained`, or no rung is given.
    """
    if not rungs:
        raise ConfigError("no rung to train: give at least one.")
    chosen = [package.rung(rung) for rung in dict.fromkeys(rungs)]
    sets = {rung.trained for rung in chosen}
    names = ", ".join(f"{rung.id} ({rung.trained})" for rung in chosen)
    if len(sets) > 1:
        raise ConfigError(
            "rungs that train different parameters cannot be mixed, since their token-blocks "
            f"do not compare: {names}. Choose rungs that train the same."
        )
    if trained not in (None, *sets):
        raise ConfigError(f"{names} cannot be trained with --trained {trained}.")
    return chosen
