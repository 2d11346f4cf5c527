"""Trains 20 steps of FOLDER/package in processes that are killed, see `resume_worker`.

    python grown_worker.py FOLDER RUN SEED ENGINE

The rungs of the package that the engine trains alternate.
"""

import sys
from functools import partial
from pathlib import Path

import real_jobs
import resume_worker
from plain_engine import PLAIN, PlainEngine

from edge_runtime.engines import ENGINES, create_engine
from edge_runtime.package import Package, open_package

STEPS = 20


def schedule(package: Package, engine_name: str) -> tuple[tuple[int, str], ...]:
    """Every rung of an engine for some steps, then the first again: (first step, rung id)."""
    engine = create_engine(engine_name)
    rungs = [
        r.id for r in package.manifest.rungs if engine.unsupported_reason(package, r) is None
    ]
    turns = [*rungs, rungs[0]]
    return tuple((1 + i * STEPS // len(turns), rung) for i, rung in enumerate(turns))


if __name__ == "__main__":
    ENGINES[PlainEngine.name] = PLAIN
    folder, run_dir, seed, engine = sys.argv[1:]
    package = open_package(Path(folder) / "package")
    real_jobs.ort_job = partial(real_jobs._job, engine=engine)
    resume_worker.STEPS, resume_worker.RUNGS = STEPS, schedule(package, engine)
    resume_worker.main("real_jobs:ort_job", Path(folder), Path(run_dir), seed)
