"""Worker of flat_memory.py: many steps, with changes of the rung and snapshots in between.

With `hostile`, what a step was given is overwritten and freed as soon as the step is over,
other arrays take that memory, and garbage is collected: who reads it later trains on something
else. Without, all of it is kept as it is.
"""

import gc
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from edge_runtime.device import memory_now
from edge_runtime.engines import Batch, Engine, create_engine
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.state import state_chunks
from parts.common import answer
from parts.step_batch import Job, batch_of, hyper_of, open_package_of

SAMPLED_EVERY = 5  # steps
STEPS_PER_CHANGE = 3  # at the end
_SCALARS = 64  # more than the hyper-parameters of a step


def work(job: Job) -> dict[str, Any]:
    """Train; returns the losses, the samples of memory and the hash of the last state."""
    package = open_package_of(job)
    with create_engine("ort", device=job["device"], threads=job["threads"]) as engine:
        engine.open(package, package.initial_state())
        losses, held_bytes = train(engine, package, job)
        digest = hashlib.sha256()
        for chunk in state_chunks(engine.snapshot()):
            digest.update(chunk)
        return {
            "runtime": engine.runtime,
            "losses": losses,
            "held_bytes": held_bytes,
            "state_sha256": digest.hexdigest(),
        }


def train(engine: Engine, package: Package, job: Job) -> tuple[list[float], list[int]]:
    """All steps; returns their losses, and memory every `SAMPLED_EVERY` steps."""
    losses, held_bytes, kept = [], [], []
    for number, rung in enumerate(rungs_of(package, job), start=1):
        batch = batch_of(package, rung, seed=number)
        result = engine.step(rung.id, batch, hyper_of(package, number))
        losses.append(result.metrics["loss"])
        if number % job["snapshot_every"] == 0:
            engine.snapshot()
        if job["hostile"]:
            destroy(batch)
            del batch
            gc.collect()
            occupy()
        else:
            kept.append(batch)
        if number % SAMPLED_EVERY == 0:
            held_bytes.append(own_bytes())
    return losses, held_bytes


def rungs_of(package: Package, job: Job) -> Iterator[Rung]:
    """Of each step: changing in the warm-up, then the first one, then changing again."""
    rungs = package.manifest.rungs
    there_and_back = [*rungs, *rungs[-2:0:-1]]
    for number in range(job["warm_up"]):
        yield there_and_back[number // job["switch_every"] % len(there_and_back)]
    yield from [rungs[0]] * (job["steps"] - job["warm_up"])
    for number in range(1, job["changes"] + 1):
        yield from [there_and_back[number % len(there_and_back)]] * STEPS_PER_CHANGE
    yield from [rungs[0]] * (5 * STEPS_PER_CHANGE)


def own_bytes() -> int:
    """Memory of this process that is no file: the kernel takes and reads those as it likes."""
    now = memory_now()
    return now.rss_bytes - now.file_bytes + now.swap_bytes


def destroy(batch: Batch) -> None:
    """Overwrite pictures and draws, with values that are valid and wrong."""
    for array in batch.values():
        array[...] = array.max() - array


def occupy() -> None:
    """Take freed memory of the size of a hyper-parameter, and write to it."""
    for array in [np.empty((), np.float32) for _ in range(_SCALARS)]:
        array[...] = np.nan


if __name__ == "__main__":
    answer(work)
