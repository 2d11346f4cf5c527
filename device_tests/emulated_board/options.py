"""The options of driving a board, for two programs."""

import argparse

from device_tests.emulated_board.driving import DriveOptions, HeatModel

_OPTIONS = DriveOptions()
_HEAT = HeatModel()


def add_drive_options(parser: argparse.ArgumentParser) -> None:
    """Add them, with the defaults of `DriveOptions`."""
    add = parser.add_argument
    add("--with-children", action="store_true", help="of the process that is followed, too")
    add("--hz", type=float, default=_OPTIONS.hz, help="updates per second")
    add("--idle", type=float, metavar="MW", help="power of the module with an idle CPU")
    add("-k", type=float, metavar="MW", help="power added at full CPU utilisation")
    add("--lsb", type=int, default=_OPTIONS.lsb_ma, metavar="MA", help="step of the current")
    add(
        "--ambient",
        type=float,
        default=_HEAT.ambient_c,
        metavar="C",
        help="temperature at 0 W",
    )
    add("--k-per-w", type=float, default=_HEAT.k_per_w, metavar="K", help="kelvin per watt")
    add("--time-constant", type=float, default=_HEAT.time_constant_s, metavar="S")
    add("--throttle-at", type=float, default=_HEAT.throttle_at_c, metavar="C")


def drive_options(args: argparse.Namespace, *, pid: int | None) -> DriveOptions:
    """The options of a command line."""
    heat = HeatModel(
        ambient_c=args.ambient,
        k_per_w=args.k_per_w,
        time_constant_s=args.time_constant,
        throttle_at_c=args.throttle_at,
    )
    return DriveOptions(
        hz=args.hz,
        pid=pid,
        with_children=args.with_children,
        idle_mw=args.idle,
        k_mw=args.k,
        lsb_ma=args.lsb,
        heat=heat,
    )


def drive_words(options: DriveOptions) -> list[str]:
    """The command line of these options."""
    heat = options.heat
    values = {
        "--hz": options.hz,
        "--pid": options.pid,
        "--idle": options.idle_mw,
        "-k": options.k_mw,
        "--lsb": options.lsb_ma,
        "--ambient": heat.ambient_c,
        "--k-per-w": heat.k_per_w,
        "--time-constant": heat.time_constant_s,
        "--throttle-at": heat.throttle_at_c,
    }
    words = [
        word
        for flag, value in values.items()
        if value is not None
        for word in (flag, str(value))
    ]
    return [*words, *(["--with-children"] if options.with_children else [])]
