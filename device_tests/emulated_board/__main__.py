"""Create and drive the tree of an emulated board.

python -m device_tests.emulated_board write ROOT --board orin_nx   the tree
python -m device_tests.emulated_board set ROOT VDD_IN=7500         rails in mW
python -m device_tests.emulated_board drive ROOT --log truth.csv   until SIGINT or SIGTERM
python -m device_tests.emulated_board factor ROOT 1.5              all power, while driven
"""

import argparse
import math
import signal
import threading
from pathlib import Path

from device_tests.emulated_board.boards import BOARDS
from device_tests.emulated_board.driving import drive, set_factor
from device_tests.emulated_board.options import add_drive_options, drive_options
from device_tests.emulated_board.tools import write_tools
from device_tests.emulated_board.tree import board_of, set_rails, write_board


def main() -> None:
    """Run the command."""
    args = _parse()
    if args.command == "write":
        board = write_board(args.root, args.board)
        if args.tools:
            write_tools(args.tools, board)
    elif args.command == "set":
        mw = {label: float(value) for label, value in (r.split("=") for r in args.rail)}
        print(set_rails(args.root, board_of(args.root), mw))
    elif args.command == "factor":
        set_factor(args.root, args.factor)
    else:
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        options = drive_options(args, pid=args.pid)
        drive(args.root, args.log, options, stop=stop, seconds=args.seconds)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    write, rails, driver, factor = map(
        commands.add_parser, ("write", "set", "drive", "factor")
    )
    for command in (write, rails, driver, factor):
        command.add_argument("root", type=Path)
    write.add_argument("--board", choices=BOARDS, default="orin_nx")
    write.add_argument("--tools", type=Path, metavar="PREFIX", help="also write nvpmodel")
    rails.add_argument("rail", nargs="+", metavar="LABEL=MW")
    factor.add_argument("factor", type=float)
    driver.add_argument("--log", type=Path, required=True)
    driver.add_argument("--pid", type=int, help="follow this process instead of the machine")
    driver.add_argument("--seconds", type=float, default=math.inf)
    add_drive_options(driver)
    return parser.parse_args()


if __name__ == "__main__":
    main()
