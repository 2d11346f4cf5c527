"""The flags that `plan` and `run` share: rungs, budget, what it decides, objective."""

import argparse
from typing import TYPE_CHECKING

from edge_runtime.cli.paths import any_path
from edge_runtime.cli.quantities import (
    AUTO,
    duration_s,
    energy_j,
    epochs_or_auto,
    power_w,
    shortened,
    size_bytes,
    temperature_c,
)
from edge_runtime.errors import ConfigError
from edge_runtime.facts.plan import EPOCHS, GRADIENT_ERROR, TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from edge_runtime.facts import Budget
    from edge_runtime.package import Package


def add_budget_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--memory`, `--energy`, `--time`, `--power` and `--temperature`."""
    group = parser.add_argument_group("budget", "counted from process start to exit")
    group.add_argument(
        "--memory",
        metavar="SIZE",
        type=size_bytes,
        help="peak resident memory of all processes, such as 1.5GiB",
    )
    group.add_argument(
        "--energy", metavar="ENERGY", type=energy_j, help="of the board, such as 20kJ or 5Wh"
    )
    group.add_argument("--time", metavar="TIME", type=duration_s, help="such as 90min or 2h")
    group.add_argument(
        "--power", metavar="POWER", type=power_w, help="mean over the run, such as 10W"
    )
    group.add_argument(
        "--temperature",
        metavar="TEMP",
        type=temperature_c,
        help="highest temperature of the board, such as 80C",
    )


def add_epochs_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--epochs`."""
    parser.add_argument(
        "--epochs",
        metavar="N",
        type=epochs_or_auto,
        default=EPOCHS,
        help=f"or `auto`: as many as --time and --energy give; default: {EPOCHS}",
    )


def add_objective_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--objective` and `--calibration`."""
    parser.add_argument(
        "--objective",
        choices=(TOKENS, GRADIENT_ERROR),
        default=TOKENS,
        help="of the plan: keep the most token-blocks (default), or take the smallest "
        "cost-adjusted errors of the gradients, from few to many tokens",
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        type=any_path,
        help="written by `edge-train calibrate`; for --objective gradient-error",
    )


def calibration_path(args: argparse.Namespace) -> "Path | None":
    """The file of the calibration to plan with; `None`: by token-blocks.

    Raises:
        ConfigError: one of the two flags is given without the other.
    """
    path: Path | None = args.calibration
    if (args.objective == GRADIENT_ERROR) != (path is not None):
        raise ConfigError(
            "--objective gradient-error and --calibration FILE are given together; "
            "`edge-train calibrate PKG DATA` measures one."
        )
    return path


def add_trained_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--trained`."""
    parser.add_argument(
        "--trained",
        metavar="SET",
        help="parameters that are trained, such as last-2, see `edge-train inspect PKG`; "
        "default: the first of the package, with a budget or too little free memory the first "
        "that they allow",
    )


def add_rung_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """Declare `--keep-ratio` and `--rung`, of which one may be given.

    Args:
        parser: of the command.
        default: what is taken without both.
    """
    rung = parser.add_mutually_exclusive_group()
    rung.add_argument(
        "--keep-ratio",
        metavar="R",
        type=_keep_ratio,
        help=f"or `auto`: by the budget; default: {default}",
    )
    rung.add_argument("--rung", metavar="ID", help="see `edge-train inspect PKG`")


def _keep_ratio(text: str) -> float | str:
    """Read `auto` or a number, as an argparse type."""
    if text == AUTO:
        return AUTO
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{shortened(text)!r} is neither `auto` nor a number"
        ) from None


def named_rungs(
    package: "Package", args: argparse.Namespace, budget: "Budget"
) -> list[str] | None:
    """Ids of the rungs that `--rung` or `--keep-ratio` names; `None`: neither does.

    Raises:
        ConfigError: no rung has this keep-ratio, or the objective chooses among all of them.
    """
    ratio = args.keep_ratio
    if args.rung is None and ratio in (None, AUTO):
        return None
    if args.calibration:
        raise ConfigError(
            "--objective gradient-error chooses among all rungs: leave out --rung and "
            "--keep-ratio, or give --keep-ratio auto."
        )
    if args.rung is not None:
        return [args.rung]
    rungs = [rung.id for rung in package.rungs_with_keep_ratio(ratio, args.trained)]
    return rungs if budget.is_limited else rungs[:1]


def budget_of(args: argparse.Namespace) -> "Budget":
    """The budget of the flags.

    Raises:
        ConfigError: a limit is zero.
    """
    from edge_runtime.facts import Budget

    return Budget(
        memory_bytes=args.memory,
        energy_j=args.energy,
        time_s=args.time,
        power_w=args.power,
        temperature_c=args.temperature,
    )
