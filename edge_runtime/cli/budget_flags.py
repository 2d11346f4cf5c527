"""The budget flags of `plan` and `run`, and those that a budget decides if left out."""

import argparse
from typing import TYPE_CHECKING

from edge_runtime.cli.quantities import (
    duration_s,
    energy_j,
    epochs_or_auto,
    power_w,
    size_bytes,
    temperature_c,
)

if TYPE_CHECKING:
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
        default=100,
        help="or `auto`: as many as --time and --energy give; default: 100",
    )


def add_trained_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--trained`."""
    parser.add_argument(
        "--trained",
        metavar="SET",
        help="parameters that are trained, such as last-2, see `edge-train inspect PKG`; "
        "default: the first of the package, with a budget the first that it allows",
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
