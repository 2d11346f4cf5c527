"""Time and memory of `edge-train report` for a run of a million samples of power.

A run of 28 hours is written in the format of `edge-train run`: samples ten times a second,
with gaps and a peak of one sample, a step per second. Then a new process reports it, as page
and CSV. One row per size: processor seconds, peak resident memory, size of the page.

    python benchmarks/report_size.py --samples 1000000
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from parts.common import MIB, Row, machine, say, table, versions, worker_environment

from edge_runtime.records import FORMAT

RATE_HZ = 10.0
RUNGS = (("k100", 1.0), ("k075", 0.75), ("k050", 0.5))
STEPS_PER_EPOCH = 1000
LIMITS = {"cpu_s": 10.0, "peak_mb": 200.0, "page_mb": 8.0}
# In a separate process, so that its peak memory is that of a user's.
_REPORT = """
import sys
from parts.common import peak_rss_bytes
from edge_runtime.cli import report
import argparse
parser = argparse.ArgumentParser()
report.add_arguments(parser)
report.run(parser.parse_args(sys.argv[1:]))
print(peak_rss_bytes())
"""


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse(words)
    facts = machine()
    rows = [measure(samples, args) for samples in args.samples]
    if args.json:
        document = {"rows": rows, "machine": facts, "versions": versions("plotly", "jinja2")}
        print(json.dumps(document, indent=1))
    else:
        print(text_of(rows))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Arguments."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--samples", type=int, nargs="+", default=[1_000_000], help="default: 1000000"
    )
    parser.add_argument("--keep", metavar="DIR", type=Path, help="folder for the page")
    parser.add_argument("--quick", action="store_true", help="only check that it works")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args(words)
    if args.quick:
        args.samples = [10_000]
    return args


def measure(samples: int, args: argparse.Namespace) -> Row:
    """One row."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        write_run(run, samples)
        recorded_bytes = sum(path.stat().st_size for path in run.iterdir())
        say(f"{samples} samples, {recorded_bytes / MIB:.0f} MiB of records")
        output = (args.keep or Path(folder)) / "report.html"
        command = [sys.executable, "-c", _REPORT, str(run), "-o", str(output)]
        command += ["--csv", str(Path(folder) / "csv")]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            command, env=worker_environment(), capture_output=True, text=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(f"the report failed:\n{done.stderr[-3000:]}")
        return {
            "samples": samples,
            "records_mb": round(recorded_bytes / 1e6, 1),
            "cpu_s": round(
                after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2
            ),
            "peak_mb": round(int(done.stdout.splitlines()[-1]) / 1e6, 1),
            "page_mb": round(output.stat().st_size / 1e6, 2),
        }


def write_run(folder: Path, samples: int) -> None:
    """A run folder; the power follows the rung, and sample number 12345 is a peak."""
    folder.mkdir()
    duration_s = samples / RATE_HZ
    (folder / "run.json").write_text(json.dumps(_info(int(duration_s))))
    _write(folder / "power.jsonl", _samples(samples))
    _write(folder / "steps.jsonl", _steps(int(duration_s)))
    _write(folder / "events.jsonl", _events(int(duration_s)))


def _write(path: Path, lines: Iterator[dict[str, Any]]) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _rung(step: int) -> tuple[str, float]:
    return RUNGS[step // 977 % len(RUNGS)]


def _samples(count: int) -> Iterator[dict[str, Any]]:
    spent_j = 0.0
    for number in range(count):
        ratio = _rung(number // 10)[1]
        power_w = 6.0 + 9.0 * ratio + (number * 7919 % 1000) / 1000
        if number == 12_345:
            power_w = 24.0
        spent_j += power_w / RATE_HZ
        is_gap = number % 200_000 in range(150_000, 150_300)
        rails = {"VDD_IN": power_w, "VDD_CPU_GPU_CV": 0.5 * power_w, "VDD_SOC": 0.2 * power_w}
        yield {
            "process": 1,
            "t_s": 2.0 + number / RATE_HZ + (number * 31 % 17) / 1000,
            "total_w": None if is_gap else power_w,
            "energy_j": None if is_gap else spent_j,
            "rails_w": dict.fromkeys(rails) if is_gap else rails,
            "temperature_c": 45.0 + 10 * ratio + (number * 13 % 100) / 50,
            "throttled": False,
            "cpu_hz": 1.984e9 if number % 50 else 1.2e9,
            "gpu_hz": None,
            "gpu_load": None,
        }


def _steps(count: int) -> Iterator[dict[str, Any]]:
    for step in range(1, count):
        rung, ratio = _rung(step)
        yield {
            "step": step,
            "epoch": (step - 1) // STEPS_PER_EPOCH,
            "rung": rung,
            "keep_ratio": ratio,
            "loss": 5.0 / (1 + step / 5000) + (step * 104729 % 1000) / 5000,
            "lr": 1e-3,
            "images": 64,
            "measured": {
                "process": 1,
                "t_s": 2.0 + step,
                "step_s": 0.9,
                "wait_s": 0.06,
                "pause_s": 0.0,
                "rss_bytes": 300 * MIB + step * 997 % (20 * MIB),
            },
        }


def _events(count: int) -> Iterator[dict[str, Any]]:
    for step in range(977, count, 977):
        rung, ratio = _rung(step)
        yield {
            "at": "2026-01-01T00:00:00+00:00",
            "process": 1,
            "t_s": 2.0 + step,
            "event": "rung_changed",
            "step": step,
            "rung": rung,
            "keep_ratio": ratio,
            "reason": "the plan for the rest asks for it",
        }


def _info(steps: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "created_at": "2026-01-01T00:00:00+00:00",
        "settings": {
            "package_digest": "0" * 64,
            "pictures_digest": None,
            "state_sha256": None,
            "seed": 0,
            "batch_size": 64,
            "epochs": steps // STEPS_PER_EPOCH,
            "images_per_epoch": None,
            "rungs": None,
        },
        "package_path": os.devnull,
        "source": "made up",
        "steps_per_epoch": STEPS_PER_EPOCH,
        "total_steps": steps,
        "engine": "ort",
        "threads": None,
        "versions": {},
        "machine": {},
        "board": "made-up",
        "power_mode": None,
        "sensor": "ina3221",
        "power_is_estimate": False,
        "calibration": {},
        "sample_rate_hz": RATE_HZ,
        "idle_w": 5.0,
        "budget": {"memory_bytes": 400 * MIB, "energy_j": 2e6},
        "profile": None,
    }


def text_of(rows: list[Row]) -> str:
    """The table, and the limits."""
    columns = ("samples", "records MB", "CPU s", "peak MB", "page MB")
    lines = [[str(value) for value in row.values()] for row in rows]
    limits = ", ".join(f"{name} {limit:g}" for name, limit in LIMITS.items())
    return "\n".join([table(columns, lines), "", f"promised for a million samples: {limits}"])


if __name__ == "__main__":
    main()
