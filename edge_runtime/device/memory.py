"""Memory of our own processes, in bytes."""

import psutil


def process_tree_rss_bytes() -> int:
    """Resident bytes of this process and of all its descendants, now.

    Pages that a child shares with its parent count in both, as far as both touched them: the
    sum errs on the side that keeps a memory budget.
    """
    here = psutil.Process()
    return sum(_rss_bytes(process) for process in [here, *here.children(recursive=True)])


def _rss_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0  # it ended since it was listed, and holds nothing any more
