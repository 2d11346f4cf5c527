"""The program `edge-train`, also as `python -m edge_runtime`.

Importing takes a while: Ctrl-C ends the process quietly during that, too.
"""

import os
import signal
import sys

_INTERRUPTED = 130  # as `StoppedError.exit_code`; nothing is imported yet

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))


def main() -> int:
    """Run the command of `sys.argv`; ends the process."""
    from edge_runtime.cli.main import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
