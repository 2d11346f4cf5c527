"""The flags that `plan` and `run` share: budget, what it decides if left out, objective."""

import argparse
from typing import TYPE_CHECKING

from edge_runtime.cli.paths import any_path
from edge_runtime.cli.quantities import (
    duration_s,
    energy_j,
    epochs_or_auto,
    power_w,
    size_bytes,
    temperature_c,
)
from edge_runtime.errors import ConfigError
from edge_runtime.facts.plan import EPOCHS, GRADIENT_ERROR, TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from edge_runtime.facts import Budget


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
