"""Common parts of the benchmarks: new processes, order of measurements, machine facts.

Clock: `time.perf_counter`. Units are in the names. Imports neither torch nor onnxruntime: the
measuring processes do.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from edge_runtime.device import machine_facts
from edge_runtime.version import __version__

Row = dict[str, Any]
Job = Mapping[str, Any]
K = TypeVar("K")
T = TypeVar("T")

MIB = 1 << 20
_BENCHMARKS = Path(__file__).parents[1]
# Found by every process of a benchmark, also if edge-train is not installed there.
_ROOT = _BENCHMARKS.parent
PATHS = os.pathsep.join(map(str, (_ROOT, _ROOT / "export", _BENCHMARKS)))


def say(text: str) -> None:
    """Print a line of progress; stdout is for results."""
    print(text, file=sys.stderr, flush=True)


def is_installed(module: str) -> bool:
    """Whether this environment has a module; does not import it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def in_fresh_process(
    python: str, part: str, job: Job, variables: Mapping[str, str] | None = None
) -> Row:
    """Run `parts/<part>.py` on a job in a new process; returns its output.

    Args:
        python: the interpreter, which decides the installed onnxruntime.
        part: without `.py`.
        job: plain data.
        variables: of its environment, besides this one's.

    Raises:
        SystemExit: it failed; its last lines on stderr say why.
    """
    command = [python, "-m", f"parts.{part}", json.dumps(job)]
    environment = {**worker_environment(), **(variables or {})}
    if job.get("threads"):
        environment["OMP_NUM_THREADS"] = str(job["threads"])
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{part} failed on {dict(job)}:\n{done.stderr[-3000:]}")
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def answer(work: Callable[[Any], Mapping[str, Any]]) -> None:
    """The other side of `in_fresh_process`: run the job, print the result."""
    print(json.dumps(work(json.loads(sys.argv[1]))))


def interleaved(keys: Sequence[K], rounds: int, measure: Callable[[K], T]) -> dict[K, list[T]]:
    """Measure every key once per round, so that a slow minute affects all of them.

    Every other round goes backwards: no key always follows the same one.
    """
    results: dict[K, list[T]] = {key: [] for key in keys}
    for number in range(rounds):
        for key in keys if number % 2 == 0 else reversed(keys):
            results[key].append(measure(key))
        say(f"round {number + 1} of {rounds} done")
    return results


def peak_rss_bytes() -> int:
    """Peak resident memory of this process so far.

    Not `ru_maxrss`, which begins at the peak of the parent process.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no VmHWM: this kernel does not report peak memory")


@contextmanager
def package_at(path: Path | None, export_flags: Sequence[str]) -> Iterator[Path]:
    """The package of the user, or a temporary one that is exported now.

    It is exported in another process, so that this one and its children never load torch.
    """
    if path is not None:
        yield path
        return
    if not is_installed("torch"):
        raise SystemExit("torch is not installed here, so give a package: --package PKG")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "package"
        say(f"exporting {' '.join(export_flags)}")
        edge_train(["export", *export_flags, "-o", str(target)])
        yield target


def edge_train_command(words: Sequence[str]) -> list[str]:
    """The command line of this checkout, run by this interpreter."""
    return [sys.executable, "-m", "edge_runtime.cli.main", *words]


def edge_train(
    words: Sequence[str], *, show: bool = False, environment: Mapping[str, str] | None = None
) -> str:
    """Run the command line in a new process; returns its stdout, or shows it on stderr."""
    variables = {**worker_environment(), **(environment or {})}
    stdout = sys.stderr if show else subprocess.PIPE
    done = subprocess.run(edge_train_command(words), env=variables, stdout=stdout, text=True)
    if done.returncode:
        raise SystemExit(f"edge-train {' '.join(words)} ended with {done.returncode}")
    return done.stdout


def worker_environment() -> dict[str, str]:
    """Environment variables of every process that a benchmark starts."""
    return {**os.environ, "PYTHONPATH": PATHS, "PYTHONWARNINGS": "ignore"}


def add_line(path: Path | None, row: Row) -> None:
    """Append a row to a file of JSON lines, if given: an aborted benchmark loses none."""
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def machine() -> dict[str, Any]:
    """Facts of the machine and its load: a load near 0 is a quiet machine."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        **machine_facts(),
        "governor": governor.read_text().strip() if governor.exists() else None,
        "load_1min": round(os.getloadavg()[0], 2),
    }


def versions(*distributions: str) -> dict[str, str]:
    """Versions of edge-train and of the installed ones of these distributions."""
    installed = {"edge-train": __version__}
    for name in distributions:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def spread(values: Sequence[float], unit: str, digits: int = 2) -> dict[str, float]:
    """Median, minimum and maximum, named with their unit."""
    summary = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {f"{name}_{unit}": round(value, digits) for name, value in summary.items()}


def fast_tenth(values: Sequence[float]) -> float:
    """What a tenth of the values are at most: times without what other programs add."""
    return sorted(values)[len(values) // 10]


def table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Aligned columns, the first one left-aligned."""
    widths = [max(map(len, cells)) for cells in zip(columns, *lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in [columns, *lines]
    )


def add_common_arguments(parser: argparse.ArgumentParser, *, rounds: int, steps: int) -> None:
    """Add the common flags of benchmarks of steps."""
    parser.add_argument("--package", metavar="PKG", type=Path, help="default: export one")
    parser.add_argument("--depth", type=int, default=12, help="blocks; default: 12")
    parser.add_argument("--batch-size", type=int, default=16, help="default: 16")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    parser.add_argument(
        "--steps", type=int, default=steps, help=f"measured per process; default: {steps}"
    )
    parser.add_argument("--quick", action="store_true", help="only check that it works")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def vit_flags(depth: int, batch_size: int, keep_ratios: Sequence[float]) -> list[str]:
    """Flags of `edge-train export` for the ViT that is measured: 64 tokens of width 192."""
    ratios = ",".join(f"{ratio:g}" for ratio in keep_ratios)
    return [
        *("--model", "vit_tiny", "--image-size", "32", "--patch-size", "4"),
        *("--depth", str(depth), "--batch-size", str(batch_size)),
        *("--method", "simclr", "--tokens", "random", "--keep-ratios", ratios),
    ]
