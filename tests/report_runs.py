"""Run folders with known content, and their energy by the definition.

Written as docs/run-folder.md says and by nothing of edge-train, so that a report of them is
compared with the document. Times are seconds of a process, powers watts.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from facts_examples import RESULTS

from edge_runtime.schema import unstructure

Power = tuple[float, float | None]  # time and total


def info(**changes: Any) -> dict[str, Any]:
    """A run.json."""
    return {
        "format": 2,
        "created_at": "2026-01-02T03:04:05+00:00",
        "settings": {
            "package_digest": "ab" * 32,
            "pictures_digest": None,
            "state_sha256": None,
            "seed": 0,
            "batch_size": 4,
            "epochs": 2,
            "images_per_epoch": None,
            "rungs": None,
        },
        "package_path": "/nowhere/package",
        "source": "pictures",
        "steps_per_epoch": 5,
        "total_steps": 10,
        "engine": "ort",
        "threads": None,
        "versions": {"edge-train": "0.1.0"},
        "machine": {"cpu_model": "a <processor>"},
        "board": "a-board",
        "power_mode": "15W",
        "sensor": "ina3221",
        "power_is_estimate": False,
        "calibration": {"VDD_IN": {"gain": 1.1, "offset_w": 0.2}},
        "sample_rate_hz": 10.0,
        "idle_w": 4.0,
        "budget": {"memory_bytes": 1 << 20, "energy_j": 500.0, "time_s": None},
        "profile": None,
        **changes,
    }


def sample(process: int, t_s: float, total_w: float | None) -> dict[str, Any]:
    """A line of power.jsonl; one of its rails takes a quarter."""
    quarter_w = None if total_w is None else total_w / 4
    return {
        "process": process,
        "t_s": t_s,
        "total_w": total_w,
        "rails_w": {"VDD_IN": total_w, "VDD_SOC": quarter_w},
        "temperature_c": 40.0 + t_s,
        "throttled": False,
        "cpu_hz": 1.5e9,
        "gpu_hz": None,
        "gpu_load": None,
    }


@dataclass
class MadeRun:
    """A run in the making; `write` makes the folder."""

    info: dict[str, Any] = field(default_factory=info)
    power: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def sampled(self, process: int, powers: Sequence[Power]) -> None:
        """Add samples of a process."""
        self.power += [sample(process, t_s, total_w) for t_s, total_w in powers]

    def stepped(
        self, process: int, steps: range, *, begin_s: float, step_s: float = 0.75,
        wait_s: float = 0.25, pause_s: float = 0.0, rung: str = "k100",
    ) -> None:  # fmt: skip
        """Add steps, one right after the other, with a pause before each."""
        for index, step in enumerate(steps):
            row = {
                "step": step,
                "epoch": (step - 1) // 5,
                "rung": rung,
                "keep_ratio": int(rung[1:]) / 100,
                "loss": 5.0 - step / 10,
                "lr": 0.001,
                "images": 4,
                "measured": {
                    "process": process,
                    "t_s": begin_s + (index + 1) * (pause_s + wait_s + step_s),
                    "step_s": step_s,
                    "wait_s": wait_s,
                    "pause_s": pause_s,
                    "rss_bytes": 500_000 + step if step % 2 else None,
                },
            }
            self.steps.append(row)

    def happened(
        self, process: int | None, t_s: float | None, event: str, **fields: Any
    ) -> None:
        """Add an event."""
        at = f"2026-01-02T03:04:{len(self.events):02d}+00:00"
        stamp = {"at": at, "process": process, "t_s": t_s}
        self.events.append({**stamp, "event": event, **fields})

    def saved(self, process: int, t_s: float, step: int) -> None:
        """Add a checkpoint that took half a second."""
        self.happened(
            process, t_s, "checkpoint_saved",
            step=step, checkpoint=f"checkpoints/{step}", size_bytes=10, save_s=0.5,
        )  # fmt: skip

    def finished(self, process: int, t_s: float, steps: int) -> None:
        """Add the end; what it says of energy is not what a report is made of."""
        spent = {
            "time_s": t_s, "energy_j": None, "energy_is_estimate": False, "lost_s": 0.0,
            "lost_j": None,
        }  # fmt: skip
        self.happened(
            process, t_s, "finished", steps=steps, epochs=steps / 5, images=4 * steps,
            loss=4.0, checkpoint=f"checkpoints/{steps}", elapsed_s=t_s, images_per_s=1.0,
            peak_bytes=600_000, stopped_by=None, spent=spent,
        )  # fmt: skip

    def write(self, folder: Path) -> Path:
        """Make the run folder."""
        folder.mkdir(parents=True)
        for number, known, _ in processes(self):
            for row in self.power:
                if row["process"] == number:
                    is_known = row["total_w"] is not None
                    row["energy_j"] = energy_j(known, 0, row["t_s"]) if is_known else None
        (folder / "run.json").write_text(json.dumps(self.info))
        for name, rows in (
            ("power", self.power), ("steps", self.steps), ("events", self.events),
        ):  # fmt: skip
            lines = "".join(f"{json.dumps(row)}\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(lines)
        return folder


def gap_run() -> MadeRun:
    """One process of 14 s; between 5 s and 9 s the sensor was lost. Ten steps on two rungs."""
    run = MadeRun()
    before = [(0.5 + i / 10, 6.0 + i % 7) for i in range(46)]
    silent: list[Power] = [(5.2 + i, None) for i in range(4)]
    after = [(9.0 + i / 10, 11.0 - i % 5) for i in range(51)]
    run.sampled(1, [*before, *silent, *after])
    run.happened(1, 2.0, "started", steps=10, steps_per_epoch=5, engine="ort", runtime="r")
    run.happened(1, 2.0, "rung_changed", step=1, rung="k100", keep_ratio=1.0, reason="a plan")
    run.stepped(1, range(1, 7), begin_s=2.0)
    run.happened(1, 5.3, "sensor_lost", step=3, sensor="ina3221", reason="pulled <out>")
    run.happened(1, 8.0, "rung_changed", step=7, rung="k050", keep_ratio=0.5, reason="less")
    run.stepped(1, range(7, 11), begin_s=8.25, rung="k050")
    run.happened(1, 9.0, "sensor_back", step=7, sensor="ina3221", gap_s=4.0)
    run.saved(1, 13.0, 10)
    run.finished(1, 13.5, 10)
    return run


def resumed_run() -> MadeRun:
    """Two processes. The first saved after step 4 and was killed at 9 s, its rest is lost."""
    run = MadeRun()
    run.sampled(1, [(0.25 * i + 0.4, 5.0 + i % 4) for i in range(35)])
    run.happened(1, 1.0, "rung_changed", step=1, rung="k100", keep_ratio=1.0, reason=None)
    run.stepped(1, range(1, 5), begin_s=1.0)
    run.saved(1, 5.75, 4)
    run.happened(1, 8.9, "epoch_finished", step=5, epoch=0, mean_loss=4.8)
    run.sampled(2, [(0.5 * i + 1.1, 7.0 + i % 3) for i in range(18)])
    run.happened(
        2, 2.0, "resumed", step=4, steps=10, checkpoint="checkpoints/4", lost_steps=2,
        lost_s=3.2, lost_j=20.0, engine="ort", runtime="r",
    )  # fmt: skip
    run.happened(2, 2.1, "rung_changed", step=5, rung="k050", keep_ratio=0.5, reason="late")
    run.stepped(2, range(5, 11), begin_s=2.25, rung="k050")
    run.saved(2, 9.0, 10)
    run.finished(2, 9.5, 10)
    return run


def estimated_run() -> MadeRun:
    """One process whose power is computed from the processor's load."""
    run = MadeRun(info(sensor="estimate", power_is_estimate=True, idle_w=None))
    run.sampled(1, [(0.3 + 0.2 * i, 10.0 + i % 3) for i in range(60)])
    run.stepped(1, range(1, 11), begin_s=1.25, pause_s=0.0625)
    run.happened(
        None, None, "evaluation", step=10, spent_s=2.0, energy_j=20.0,
        energy_is_estimate=True,
        results={**unstructure(RESULTS), "linear": None},
    )  # fmt: skip
    return run


RUNS = {"gap": gap_run, "resumed": resumed_run, "estimated": estimated_run}


def processes(run: MadeRun) -> Iterator[tuple[int, list[tuple[Fraction, Fraction]], float]]:
    """Number, samples with a power, and end of every process."""
    numbers = {row["process"] for row in run.power}
    for number in sorted(numbers):
        mine = [row for row in run.power if row["process"] == number]
        known = [
            (Fraction(row["t_s"]), Fraction(row["total_w"]))
            for row in mine
            if row["total_w"] is not None
        ]
        ends = [row["t_s"] for row in mine]
        ends += [row["t_s"] for row in run.events if row["process"] == number]
        ends += [
            row["measured"]["t_s"] for row in run.steps if row["measured"]["process"] == number
        ]
        yield number, known, max(ends)


def energy_j(known: list[tuple[Fraction, Fraction]], begin_s: float, end_s: float) -> float:
    """Joules between two times of a process, exactly, piece by piece.

    Before the first sample at its power, trapezoids between two, evenly spread, nothing after.
    """
    pieces = [((Fraction(0), known[0][1]), known[0]), *pairwise(known)]
    total = Fraction(0)
    for (a_s, a_w), (b_s, b_w) in pieces:
        low, high = max(a_s, Fraction(begin_s)), min(b_s, Fraction(end_s))
        if low < high:
            total += (high - low) * (a_w + b_w) / 2
    return float(total)
