"""Worker of teacher_overlap.py: steps whose engine may see the images of the next one."""

import hashlib
import time
from itertools import pairwise
from typing import Any

from edge_runtime.engines import Batch, create_engine
from edge_runtime.state import state_chunks
from parts.common import answer, peak_rss_bytes
from parts.step_batch import Job, batch_of, hyper_of, open_job

_BATCHES = 4  # different ones, in turn


def work(job: Job) -> dict[str, Any]:
    """Time of each step, processor time per step, and the hash of the last state."""
    package, rung = open_job(job)
    made = [batch_of(package, rung, seed=seed) for seed in range(_BATCHES)]
    count = job["warm_up"] + job["steps"]
    batches: list[Batch | None] = [made[number % _BATCHES] for number in range(count)]
    step_ms, cpu_s = [], 0.0
    engine = create_engine("ort", device=job["device"], threads=job["threads"])
    with engine:
        engine.open(package, package.initial_state())
        for number, (batch, following) in enumerate(pairwise([*batches, None]), start=1):
            assert batch is not None
            if number == job["warm_up"] + 1:
                cpu_s = time.process_time()
            begin_s = time.perf_counter()
            hyper = hyper_of(package, number)
            engine.step(rung.id, batch, hyper, following if job["ahead"] else None)
            if number > job["warm_up"]:
                step_ms.append(1000 * (time.perf_counter() - begin_s))
        cpu_s = time.process_time() - cpu_s
        digest = hashlib.sha256()
        for chunk in state_chunks(engine.snapshot()):
            digest.update(chunk)
        return {
            "runtime": engine.runtime,
            "forward_engine": engine.forward_engine,
            "step_ms": step_ms,
            "cpu_ms": 1000 * cpu_s / job["steps"],
            "peak_rss_bytes": peak_rss_bytes(),
            "state_sha256": digest.hexdigest(),
        }


if __name__ == "__main__":
    answer(work)
