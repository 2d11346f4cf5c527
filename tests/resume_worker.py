"""Trains a run in processes that are killed at seeded moments, until it is finished.

    python resume_worker.py FACTORY FOLDER RUN SEED

FACTORY is `module:function`; called with FOLDER in each process, it gives the package, the
source and the engine. A process kills itself by SIGKILL at a random disk operation; SEED
`never` trains in one go. The processes are forks of this one, which stays small. Prints what
each of them was killed in.
"""

import importlib
import itertools
import json
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edge_runtime.records import checkpoints
from edge_runtime.state import State, state_chunks
from edge_runtime.training import TrainingOptions, train

STEPS = 40
RUNGS = ((1, "k100"), (13, "k050"), (31, "k100"))  # the rung switches during the run
MOST_PROCESSES = 60
MOMENTS = (  # counted operations, and how many of them a process survives
    (("write",), 25),  # a line of a step or an event
    (("state_chunks",), 4),  # a state
    (("fsync", "rename", "ftruncate"), 40),  # completes a save or a resume
)


def main(factory: str, folder: Path, run_dir: Path, seed: str) -> None:
    rng = None if seed == "never" else random.Random(int(seed))
    killed_in = []
    for _ in range(MOST_PROCESSES):
        reader, writer = os.pipe()
        moment = draw_moment(rng) if rng else None
        if not (child := os.fork()):
            if moment:
                kill_at(*moment, writer)
            train_on(factory, folder, run_dir)
            os._exit(0)
        os.close(writer)
        killed_in.append(os.read(reader, 100).decode())
        os.close(reader)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            sys.stdout.write(json.dumps(killed_in[:-1]))
            return
        assert os.WTERMSIG(status) == signal.SIGKILL, status
    raise SystemExit(f"not finished after {MOST_PROCESSES} processes")


def draw_moment(rng: random.Random) -> tuple[tuple[str, ...], int]:
    """The counted operations, and which of them kills the process."""
    counted, most = rng.choice(MOMENTS)
    return counted, rng.randint(1, most)


def train_on(factory: str, folder: Path, run_dir: Path) -> None:
    module, _, function = factory.partition(":")
    package, source, engine = getattr(importlib.import_module(module), function)(folder)
    # A checkpoint every few steps, the same in every run; the meter has the real clock.
    seconds = itertools.count(math.ceil(time.monotonic()))
    options = TrainingOptions(
        engine=engine,
        rungs=RUNGS,
        epochs=STEPS // (len(source) // package.manifest.batch_size),
        threads=1,
        resume=True,
        checkpoint_every_s=20,
        clock=lambda: float(next(seconds)),
    )
    for _ in train(package, source, run_dir, options):
        pass


def kill_at(counted: tuple[str, ...], number: int, report: int) -> None:
    """Kill the process at the counted disk operation of that number, in mid-write."""
    left = itertools.count(number - 1, -1)
    tell = os.write

    def deadly(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*args: Any, **kwargs: Any) -> Any:
            if next(left) == 0:
                if name == "write":
                    operation(args[0], args[1][: len(args[1]) // 2])
                tell(report, name.encode())
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*args, **kwargs)

        return instead

    def deadly_chunks(state: State) -> Iterator[Any]:
        chunks = list(state_chunks(state))
        if next(left) == 0:
            yield from chunks[: len(chunks) // 2]
            tell(report, b"state_chunks")
            os.kill(os.getpid(), signal.SIGKILL)
        yield from chunks

    for name in counted:
        if name == "state_chunks":
            checkpoints.state_chunks = deadly_chunks
        else:
            setattr(os, name, deadly(name, getattr(os, name)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
