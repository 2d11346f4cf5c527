"""Run a command next to a real jtop service on an emulated board.

Called by run_jtop_service.sh as the first process of its namespace. A service that is killed
starts again, as with systemd.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from device_tests.emulated_board import jtop_service
from device_tests.emulated_board.driving import START_S, DriveOptions, covers, drive
from device_tests.emulated_board.options import add_drive_options, drive_options

ROOT = Path("/fake_sys")  # fixed in jetson-stats
GROUP_FILE = Path("/run/jtop.group")  # the service's process group, while it runs


def main() -> int:
    """Run it; returns the command's exit code."""
    args = _parse()
    for number in (signal.SIGINT, signal.SIGTERM):  # PID 1 ignores what it does not handle
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    service = Service(verbose=args.verbose, restart_after_s=args.restart_after)
    try:
        return _run(args)
    finally:
        service.close()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_jtop_service.sh ...", description=__doc__)
    parser.add_argument(
        "--truth", type=Path, metavar="CSV", help="drive the rails and log the true power here"
    )
    parser.add_argument(
        "--follow", action="store_true", help="drive by the CPU time of the command only"
    )
    parser.add_argument(
        "--restart-after",
        type=float,
        default=2.0,
        metavar="S",
        help="until a service that was killed starts again; default: 2",
    )
    parser.add_argument("--verbose", action="store_true", help="show the log of the service")
    parser.add_argument("command", nargs="*", help="after --; default: a shell")
    add_drive_options(parser)
    return parser.parse_args()


def _run(args: argparse.Namespace) -> int:
    driving: Driving | None = None
    command: subprocess.Popen[bytes] | None = None
    try:
        if args.truth and not args.follow:
            driving = Driving(args.truth, drive_options(args, pid=None))
            driving.wait_for_log()
        command = subprocess.Popen(args.command or [os.environ.get("SHELL", "/bin/sh")])
        if args.truth and args.follow:
            driving = Driving(args.truth, drive_options(args, pid=command.pid))
        code = command.wait()
        if driving and not driving.is_alive():
            print("serve_jtop.py: the drive of the rails died", file=sys.stderr)
    except OSError as error:
        print(f"serve_jtop.py: {error}", file=sys.stderr)
        code = 127
    finally:
        if driving:
            driving.close()
        if command:
            _end(command)
    return code if code >= 0 else 128 - code


def _end(command: "subprocess.Popen[bytes]") -> None:
    if command.poll() is None:
        command.terminate()
        try:
            command.wait(5)
        except subprocess.TimeoutExpired:
            command.kill()


class Driving(threading.Thread):
    """Drives the rails until it is closed."""

    def __init__(self, log: Path, options: DriveOptions) -> None:
        super().__init__()
        self._log, self._options, self._stop_event = log, options, threading.Event()
        self.start()

    def run(self) -> None:
        """Drive the rails."""
        drive(ROOT, self._log, self._options, stop=self._stop_event)

    def wait_for_log(self) -> None:
        """Wait until the log has started, so that it covers everything that starts now."""
        while self.is_alive() and not covers(self._log, 0.0):
            time.sleep(0.01)
        time.sleep(START_S)

    def close(self) -> None:
        """Write the end of the log."""
        self._stop_event.set()
        self.join()


class Service:
    """Keeps the jtop service running."""

    def __init__(self, *, verbose: bool, restart_after_s: float) -> None:
        """Start it and wait until it is ready."""
        self._level = "INFO" if verbose else "ERROR"
        self._restart_after_s = restart_after_s
        self._closing = threading.Event()
        self._process = self._start()
        self._keeper = threading.Thread(target=self._keep)
        self._keeper.start()

    def _start(self) -> "subprocess.Popen[bytes]":
        read_end, write_end = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", jtop_service.__name__, str(write_end), self._level],
            pass_fds=[write_end],
            start_new_session=True,
        )
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            if pipe.read(len(jtop_service.READY)) != jtop_service.READY:
                raise RuntimeError("the jtop service did not start")
        GROUP_FILE.write_text(str(process.pid))
        return process

    def _keep(self) -> None:
        while True:
            self._process.wait()
            GROUP_FILE.unlink(missing_ok=True)
            if self._closing.wait(self._restart_after_s):
                return
            print("serve_jtop.py: starting the jtop service again", file=sys.stderr)
            self._process = self._start()

    def close(self) -> None:
        """Kill it, with its helpers."""
        self._closing.set()
        with suppress(ProcessLookupError):  # it was just killed
            os.killpg(self._process.pid, signal.SIGKILL)
        self._keeper.join()


if __name__ == "__main__":
    sys.exit(main())
