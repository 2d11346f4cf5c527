"""What became of every test on a real board: a JSON file with the board's facts, to send in.

Once a board is named, a test that skips itself has failed. Only `not_run` leaves one out; its
reason is in the file, as are the files of tests for something else than this board.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import pytest

from edge_runtime.device import known_boards, load_board
from edge_runtime.errors import DeviceError
from edge_runtime.version import __version__

RecordProperty: TypeAlias = Callable[[str, object], None]  # pytest's fixture: a figure

PLUGIN = "board-results"
FORMAT = 1
ROOT = Path(__file__).parents[2]
PASSED, FAILED, NOT_RUN, NOT_REACHED = "passed", "failed", "not run", "not reached"
_SIGN = f"{NOT_RUN}: "  # of skips that are wanted
_BY_HAND = "left out by the command line"
_ORDER = (
    "test_board_sensors",
    "test_board_modes",
    "test_board_engines",
    "test_tensorrt_board",
    "test_board_budgets",
    "test_board_endurance",
)
_DOCTOR_S = 1800.0  # a part of it may take ten minutes


def not_run(reason: str) -> NoReturn:
    """Leave a test out, with the reason in the results; a plain skip would be a failure."""
    pytest.skip(_SIGN + reason)


def require_board(name: str) -> None:
    """Compare the name with the board that edge-train recognises.

    Raises:
        pytest.UsageError: there is no such profile, or this is another board.
    """
    known = [board.id for board in known_boards()]
    if name not in known:
        raise pytest.UsageError(
            f"--board {name}: profiles/ has no such board; it has {', '.join(known)}"
        )
    try:
        here = load_board(None).id
    except DeviceError as error:
        raise pytest.UsageError(f"--board {name}: {error}") from error
    if here != name:
        raise pytest.UsageError(
            f"--board {name}: this machine is recognised as {here}. Name that one. If it is "
            "wrong, send in what `edge-train doctor --json` prints, and the text of "
            "/sys/firmware/devicetree/base/compatible."
        )


def read_doctor() -> dict[str, Any]:
    """The facts of the board, as `edge-train doctor --json` prints them."""
    words = [sys.executable, "-m", "edge_runtime", "doctor", "--json"]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, cwd=ROOT, timeout=_DOCTOR_S
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"doctor did not end within {_DOCTOR_S:g} s"}
    try:
        facts: dict[str, Any] = json.loads(done.stdout)
    except ValueError:  # a test that reads them fails, and the file says why
        return {"problem": f"doctor ended with {done.returncode}: {done.stderr.strip()}"}
    return facts


def commit_facts() -> dict[str, Any]:
    """The commit of this checkout, and whether it was changed; `None`: unknown."""
    said = []
    for words in (["rev-parse", "HEAD"], ["status", "--porcelain"]):
        try:
            done = subprocess.run(
                ["git", "-C", str(ROOT), *words], capture_output=True, text=True
            )
        except OSError:  # no git
            return {"commit": None, "is_changed": None}
        said.append(done.stdout.strip() if done.returncode == 0 else None)
    commit, changes = said
    return {"commit": commit, "is_changed": None if changes is None else bool(changes)}


@dataclass(slots=True, kw_only=True)
class _Result:
    """Of one test; durations include its fixtures."""

    test: str
    outcome: str = NOT_REACHED
    duration_s: float = 0.0
    reason: str | None = None  # why it failed, or was not run
    figures: dict[str, Any] = field(default_factory=dict)  # by `record_property`


class BoardResults:
    """A plugin of pytest. The file is written after every test: a board may lose its power."""

    def __init__(
        self,
        board: str,
        path: Path,
        elsewhere: Mapping[Path, str],
        arguments: Sequence[str],
    ) -> None:
        """Prepare it; nothing is written yet.

        Args:
            board: id of its profile.
            path: of the file.
            elsewhere: files of tests that are not for a real board, and why.
            arguments: of this call of pytest.
        """
        self._path, self._elsewhere = path, elsewhere
        self._tests: dict[str, _Result] = {}
        self._left_out: dict[str, str] = {}
        self.facts: dict[str, Any] = {}  # of the board, known when the first test begins
        self._head = {
            "format": FORMAT,
            "board": board,
            "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "edge_train": __version__,
            **commit_facts(),
            "arguments": list(arguments),
            # Of an emulated board EDGE_TRAIN_SYSFS is not empty
            "variables": {
                name: value
                for name, value in sorted(os.environ.items())
                if name.startswith("EDGE_TRAIN_")
            },
            "is_root": os.geteuid() == 0,
        }

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Leave files of tests out that are not for a board."""
        reason = self._elsewhere.get(collection_path)
        if reason is None:
            return None
        self._left_out[collection_path.name] = reason
        return True

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Begin with what needs a board at rest; what heats it comes last."""
        places = {stem: place for place, stem in enumerate(_ORDER)}
        items.sort(key=lambda item: places.get(item.path.stem, len(places)))

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Note what `-k` and the like leave out."""
        self._left_out.update((item.nodeid, _BY_HAND) for item in items)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self,
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """A file that skips itself has failed."""
        report = yield
        if report.outcome == "skipped":
            report.outcome, report.longrepr = "failed", f"skipped on a board: {_why(report)}"
        return report

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that cannot be loaded."""
        if report.failed:
            self._tests[report.nodeid] = _Result(
                test=report.nodeid, outcome=FAILED, reason=str(report.longrepr)
            )

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Read the facts of the board; from here on, every test has an entry."""
        self._tests.update((item.nodeid, _Result(test=item.nodeid)) for item in session.items)
        if not session.config.option.collectonly:
            self.facts = read_doctor()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self,
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """A test that skips itself, or is expected to fail, has failed."""
        report = yield
        if report.outcome == "skipped" and not _why(report).startswith(_SIGN):
            report.outcome, report.longrepr = "failed", f"skipped on a board: {_why(report)}"
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the outcome of a part of a test in: its setup, itself, its teardown."""
        result = self._tests[report.nodeid]
        result.duration_s += report.duration
        result.figures.update(report.user_properties)
        if report.outcome == "failed":
            result.outcome = FAILED
            result.reason = "\n".join(filter(None, (result.reason, report.longreprtext)))
        elif report.outcome == "skipped":
            result.outcome, result.reason = NOT_RUN, _why(report).removeprefix(_SIGN)
        elif report.when == "call":
            result.outcome = PASSED
        if report.when == "teardown":
            self._write(exit_code=None)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the file to its end."""
        if not session.config.option.collectonly:
            self._write(exit_code=int(exitstatus))

    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """Say where the file is, and what was not tested."""
        if terminalreporter.config.option.collectonly:
            return
        terminalreporter.section("board results")
        for name, reason in self._left_out.items():
            if reason != _BY_HAND:
                terminalreporter.line(f"left out: {name}: {reason}")
        counts = ", ".join(f"{count} {name}" for name, count in self._counts().items())
        terminalreporter.line(f"{self._path}: {counts}. Look through it, and send it in.")

    def _counts(self) -> dict[str, int]:
        outcomes = [result.outcome for result in self._tests.values()]
        kinds = (PASSED, FAILED, NOT_RUN, NOT_REACHED)
        return {kind: outcomes.count(kind) for kind in kinds}

    def _write(self, *, exit_code: int | None) -> None:
        """Write everything that is known; without an exit code, it was not the end."""
        table = {
            **self._head,
            "exit_code": exit_code,
            "counts": self._counts(),
            "tests": [asdict(result) for result in self._tests.values()],
            "left_out": self._left_out,
            "facts": self.facts,
        }
        new = self._path.with_name(f".{self._path.name}.new")
        new.write_text(json.dumps(_finite(table), indent=2, default=str) + "\n")
        new.replace(self._path)


def _why(report: pytest.CollectReport | pytest.TestReport) -> str:
    """The reason of a skip, or of a failure that was expected."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(getattr(report, "wasxfail", "") or report.longrepr)


def _finite(value: Any) -> Any:
    """The same with `None` in place of numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
