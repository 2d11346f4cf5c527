"""Worker of memory_truth.py: memory of a process without and with one rung in training."""

from pathlib import Path
from typing import Any

from edge_runtime.device import process_tree_rss_bytes
from edge_runtime.engines import create_engine
from edge_runtime.engines.runtime import release_free_memory
from edge_runtime.package import open_package
from edge_runtime.selftest import try_engine
from parts.common import answer, peak_rss_bytes
from parts.step_batch import Job, batch_of, hyper_of


def work(job: Job) -> dict[str, Any]:
    """Measure the rung of a job, or the baseline if it names no package."""
    return baseline(job) if job["package"] is None else rung(job)


def baseline(job: Job) -> dict[str, Any]:
    """The runtime at rest: it trained one step of the package inside edge-train."""
    trial = try_engine("ort", threads=job["threads"])
    release_free_memory()
    return {"runtime": trial.runtime, "baseline_bytes": process_tree_rss_bytes()}


def rung(job: Job) -> dict[str, Any]:
    """The peak of a process that only trains the rung."""
    package = open_package(Path(job["package"]))
    batch = batch_of(package, package.rung(job["rung"]))
    with create_engine("ort", threads=job["threads"]) as engine:
        engine.open(package, package.initial_state())
        opened_bytes = peak_rss_bytes()
        for step in range(1, job["steps"] + 1):
            engine.step(job["rung"], batch, hyper_of(package, step))
        return {
            "runtime": engine.runtime,
            "opened_bytes": opened_bytes,
            "measured_bytes": peak_rss_bytes(),
        }


if __name__ == "__main__":
    answer(work)
