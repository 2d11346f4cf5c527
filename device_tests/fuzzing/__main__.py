"""Tries damaged files; prints what failed, by reader and number; the exit code is then 1."""

import argparse
import json
import logging
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path

from device_tests.fuzzing.mutate import mutated
from device_tests.fuzzing.readers import READERS
from edge_runtime.errors import EdgeRuntimeError

ROOT = Path(__file__).parents[2]
MOST_S = 2.0  # processor time of one input
MOST_BYTES = 300 << 20  # that reading takes beside the loaded program
HANGS_S = 20  # of one input, by the clock


@dataclass
class Outcome:
    """Of one reader."""

    reader: str
    inputs: int = 0
    results: int = 0  # read without an error
    slowest_s: float = 0.0
    more_bytes: int = 0  # peak beside the loaded program
    failures: list[str] = field(default_factory=list)


def try_reader(name: str, *, seed: int, first: int, count: int, seconds: float) -> Outcome:
    """Try inputs of one reader in this process.

    Args:
        name: of the reader.
        seed: of all inputs.
        first: number of the first input.
        count: of inputs.
        seconds: begins no input later than this after the first one: on a busy machine,
            loading the program can take longer than all inputs.
    """
    reader, outcome = READERS[name], Outcome(name)
    logging.disable()  # warnings about damaged checkpoints
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        reader.make(folder)
        valid = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        files = sorted(
            path.relative_to(folder).as_posix() for path in folder.glob(reader.files)
        )
        reader.read(folder)
        loaded_bytes = _peak_bytes()
        until_s = time.monotonic() + seconds
        for number in range(first, first + count):
            if time.monotonic() > until_s:
                break
            chance = random.Random(f"{seed} {name} {number}")
            damaged = chance.choice(files)
            (folder / damaged).write_bytes(mutated(valid[damaged], chance))
            reader.settle(folder, damaged)
            _try_input(outcome, number, folder)
            for each, content in valid.items():
                if not _is_same(folder / each, content):
                    (folder / each).write_bytes(content)
        outcome.more_bytes = _peak_bytes() - loaded_bytes
    if outcome.more_bytes > MOST_BYTES:
        outcome.failures.append(f"{name}: {outcome.more_bytes >> 20} MiB")
    return outcome


def _is_same(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _try_input(outcome: Outcome, number: int, folder: Path) -> None:
    outcome.inputs += 1
    began_s = time.process_time()
    signal.setitimer(signal.ITIMER_REAL, HANGS_S)
    try:
        READERS[outcome.reader].read(folder)
        outcome.results += 1
    except EdgeRuntimeError as error:
        str(error).encode()  # as it would be printed
    except BaseException:  # noqa: BLE001 - also what is no Exception, such as a panic
        outcome.failures.append(f"{outcome.reader} {number}: {traceback.format_exc()}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    spent_s = time.process_time() - began_s
    outcome.slowest_s = max(outcome.slowest_s, spent_s)
    if spent_s > MOST_S:
        outcome.failures.append(f"{outcome.reader} {number}: {spent_s:.1f} s")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


class HangError(BaseException):
    """An input took too long. No `Exception`: readers turn a `TimeoutError` into an error."""


def _hang(*_: object) -> None:
    raise HangError(f"no answer in {HANGS_S} s")


def in_new_process(
    name: str, *, seed: int, count: int, first: int = 0, seconds: float = 1e6
) -> Outcome:
    """Try inputs of one reader in a process of its own, whose peak memory counts."""
    words = [sys.executable, "-m", "device_tests.fuzzing", "--json", "--reader", name]
    words += ["--seed", str(seed), "--first", str(first), "--count", str(count)]
    done = subprocess.run(
        [*words, "--seconds", str(seconds)], cwd=ROOT, capture_output=True, text=True
    )
    try:
        return Outcome(**json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        reason = f"its process ended with {done.returncode}: {done.stderr[-2000:]}"
        return Outcome(name, failures=[f"{name}: {reason}"])


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m device_tests.fuzzing")
    parser.add_argument("--reader", choices=READERS, help="default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--count", type=int, default=1000, help="inputs per reader")
    parser.add_argument("--seconds", type=float, default=1e6, help="per reader, at most")
    parser.add_argument("--json", action="store_true", help="one line, in this process")
    args = parser.parse_args()
    if args.json:
        signal.signal(signal.SIGALRM, _hang)
        outcome = try_reader(
            args.reader,
            seed=args.seed,
            first=args.first,
            count=args.count,
            seconds=args.seconds,
        )
        print(json.dumps(asdict(outcome)))
        return 0
    failures = []
    for name in [args.reader] if args.reader else READERS:
        outcome = in_new_process(
            name, seed=args.seed, first=args.first, count=args.count, seconds=args.seconds
        )
        failures += outcome.failures
        print(
            f"{name:16} {outcome.inputs:6} inputs, {outcome.results:6} read, slowest "
            f"{outcome.slowest_s:.2f} s, {outcome.more_bytes / 2**20:4.0f} MiB, "
            f"{len(outcome.failures)} failures",
            flush=True,
        )
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
