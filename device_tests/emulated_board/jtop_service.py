"""The jtop service, in a separate process group, as systemd would run it.

Started by `serve_jtop`. The service forks helpers: killing the group kills them all, as
systemd does.
"""

import logging
import os
import sys

READY = b"ready"


def main() -> None:
    """Serve until killed; writes to the file descriptor of the command line when ready."""
    logging.basicConfig(level=sys.argv[2])
    os.environ["JTOP_TESTING"] = "true"
    from jtop.service import JtopServer

    server = JtopServer(force=True)
    server.start()
    os.write(int(sys.argv[1]), READY)
    server.join()


if __name__ == "__main__":
    main()
