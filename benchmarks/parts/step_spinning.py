"""Worker of spinning.py: the same steps with another way of waiting for each other."""

import time
from typing import Any

from edge_runtime.engines import create_engine
from edge_runtime.engines.spinning import SpinPolicy
from parts.common import answer
from parts.step_batch import Job, batch_of, hyper_of, open_job

_SETTLING_S = 3.0  # until the rule has seen the other programs


def work(job: Job) -> dict[str, Any]:
    """Time of each step, and processor time per step."""
    package, rung = open_job(job)
    if job["spinning"] is not None:
        SpinPolicy.is_allowed = lambda _: bool(job["spinning"])  # type: ignore[method-assign]
    engine = create_engine(job["engine"], threads=job["threads"])
    batch, hyper = batch_of(package, rung), hyper_of(package, 1)
    step_ms = []
    with engine:
        engine.open(package, package.initial_state())
        began_s, steps = time.monotonic(), 0
        while steps < job["warm_up"] or time.monotonic() - began_s < _SETTLING_S:
            engine.step(rung.id, batch, hyper)
            steps += 1
        cpu_s = time.process_time()
        for _ in range(job["steps"]):
            begin_s = time.perf_counter()
            engine.step(rung.id, batch, hyper)
            step_ms.append(1000 * (time.perf_counter() - begin_s))
        cpu_s = time.process_time() - cpu_s
    return {
        "runtime": engine.runtime,
        "step_ms": step_ms,
        "cpu_ms": 1000 * cpu_s / job["steps"],
    }


if __name__ == "__main__":
    answer(work)
