"""Worker of input_pipeline.py: the same steps of a run, fed from files or from memory.

Clock: wall seconds from the end of the warm-up to the end of the last step.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.data import PictureSource, draw_inputs, view_batches
from edge_runtime.data.listing import open_folder
from edge_runtime.engines import Batch, Engine, create_engine
from edge_runtime.package import Package
from edge_runtime.package.curves import hyper_parameters
from edge_runtime.package.manifest import Rung
from edge_runtime.records.events import StepRecord
from edge_runtime.training import TrainingOptions, train
from parts.common import answer
from parts.step_batch import Job, open_job


def work(job: Job) -> dict[str, Any]:
    """Train the steps of a job and time those after the warm-up."""
    package, rung = open_job(job)
    source = open_folder(Path(job["data"]))
    engine = create_engine(job["engine"], threads=job["threads"])
    runtime = engine.runtime
    last = job["warm_up"] + job["steps"]
    steps = {"files": from_files, "memory": from_memory}[job["fed_from"]](
        package, rung, source, engine, last, job["threads"]
    )
    waits_s = []
    for number, wait_s in enumerate(steps, 1):
        if number == job["warm_up"]:
            begin_s, cpu_begin_s = time.perf_counter(), time.process_time()
        elif number > job["warm_up"]:
            waits_s.append(wait_s)
            end_s, cpu_end_s = time.perf_counter(), time.process_time()
    images = job["steps"] * package.manifest.batch_size
    return {
        "runtime": runtime,
        "images_per_s": images / (end_s - begin_s),
        "wait_ms": 1000 * sum(waits_s) / len(waits_s),
        "cpus_busy": (cpu_end_s - cpu_begin_s) / (end_s - begin_s),
    }


def from_files(
    package: Package,
    rung: Rung,
    source: PictureSource,
    engine: Engine,
    last: int,
    threads: int | None,
) -> Iterator[float]:
    """A whole run of the library; returns the seconds that each step waited for pictures."""
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingOptions(
            engine=engine,
            rungs=((1, rung.id),),
            epochs=1,
            images_per_epoch=last * package.manifest.batch_size,
            threads=threads,
        )
        for event in train(package, source, Path(folder) / "run", options):
            if isinstance(event, StepRecord):
                yield event.measured.wait_s


def from_memory(
    package: Package,
    rung: Rung,
    source: PictureSource,
    engine: Engine,
    last: int,
    threads: int | None,
) -> Iterator[float]:
    """The same batches, prepared before the first step, and only the engine's steps."""
    manifest = package.manifest
    with view_batches(
        source,
        manifest.views,
        batch_size=manifest.batch_size,
        seed=0,
        first_step=1,
        last_step=last,
        threads=threads or len(os.sched_getaffinity(0)),
    ) as batches:
        ready: list[Batch] = []
        for made in batches:
            draws = draw_inputs(
                rung.draws,
                seed=0,
                epoch=made.epoch,
                pictures=made.pictures,
                crops=made.crops,
            )
            ready.append({**made.images, **draws})
    with engine:
        engine.open(package, package.initial_state())
        for number, batch in enumerate(ready, 1):
            hyper = hyper_parameters(
                manifest.hyper_parameters, number, steps_per_epoch=last, total_steps=last
            )
            engine.step(rung.id, batch, hyper)
            yield 0.0


if __name__ == "__main__":
    answer(work)
