"""Worker of step_time.py and gpu_step.py: an engine of edge-train. Runs without torch."""

from typing import Any

from edge_runtime.engines import create_engine
from parts.common import answer
from parts.gpu import Gpu
from parts.step_batch import Job, batch_of, hyper_of, measured, open_job


def work(job: Job) -> dict[str, Any]:
    """Measure the engine of a job."""
    package, rung = open_job(job)
    batch = batch_of(package, rung)
    device = job.get("device", "cpu")
    gpu = None if device == "cpu" else Gpu()

    def step(number: int) -> float:
        result = engine.step(rung.id, batch, hyper_of(package, number))
        return float(result.metrics["loss"])

    with create_engine(job["engine"], device=device, threads=job["threads"]) as engine:
        engine.open(package, package.initial_state())
        times = measured(step, job, gpu)
        return {**times, "runtime": engine.runtime, "flops": rung.flops}


if __name__ == "__main__":
    answer(work)
