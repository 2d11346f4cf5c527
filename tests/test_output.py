"""What commands write to stdout and stderr: closed, full, in ASCII, and when interrupted."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_cli_run import words
from training_fakes import write_package

from edge_runtime.cli.main import COMMANDS, main
from edge_runtime.errors import EngineError
from edge_runtime.records import open_run
from edge_runtime.storage import new_folder, write_chunks

__all__ = ["words"]  # the fixture

TESTS = Path(__file__).parent
COMMAND = [sys.executable, "-m", "edge_runtime"]

NOISY = """
import os
import edge_runtime.within_budget
from training_fakes import FakeEngine

class Noisy(FakeEngine):
    def step(self, rung_id, batch, hyper, following=None):
        os.write(1, b"out of the runtime")
        os.write(2, b"a warning of the runtime")
        return super().step(rung_id, batch, hyper)

edge_runtime.within_budget.create_engine = lambda *_, **__: Noisy()
from edge_runtime.__main__ import main
main()
"""


def call(
    command: list[str], redirection: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command by a shell that redirects its output."""
    env = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}", **variables}
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *command]
    return subprocess.run(shell, capture_output=True, text=True, env=env, timeout=60)


@pytest.fixture
def package(tmp_path: Path) -> str:
    return str(write_package(tmp_path / "package").path)


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_nothing_is_written_into_a_run_in_place_of_a_closed_output(
    words: list[str], tmp_path: Path, closed: str
) -> None:
    done = call([sys.executable, "-c", NOISY, *words], closed)
    assert done.returncode == 0, done.stderr
    run = open_run(tmp_path / "run")
    assert [record.step for record in run.each_step()] == [*range(1, 11)]
    assert run.events()
    assert run.power() is not None
    assert run.newest_checkpoint().info.step == 10


def test_a_closed_stdout_is_no_error(package: str) -> None:
    done = call([*COMMAND, "inspect", package], ">&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [["inspect"], ["--help"], ["--version"], ["inspect", "-h"]])
def test_a_result_that_cannot_be_written_is_an_error(package: str, words: list[str]) -> None:
    given = [*words, package] if words == ["inspect"] else words
    done = call([*COMMAND, *given], "> /dev/full")
    assert done.returncode == 9
    assert done.stderr.startswith("edge-train: cannot write the output: No space left")


@pytest.mark.parametrize(
    ("words", "code"), [(["inspect", "/no/package"], 3), (["trian"], 2), (["--version"], 0)]
)
def test_a_lost_message_does_not_change_the_exit_code(words: list[str], code: int) -> None:
    assert call([*COMMAND, *words], "2> /dev/full").returncode == code


def test_with_both_outputs_full_the_exit_code_tells_it(package: str) -> None:
    assert call([*COMMAND, "inspect", package], "> /dev/full 2>&1").returncode == 9


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_names_that_a_locale_lacks_are_escaped(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    write_package(tmp_path / "päckchen")
    done = call([*COMMAND, "inspect", str(tmp_path / "päckchen")], **variables)
    assert done.returncode == 0, done.stderr
    assert re.search(r"/p(\\xe4|\\xc3\\xa4)ckchen, format", done.stdout)
    missing = call([*COMMAND, "inspect", str(tmp_path / "größe")], **variables)
    assert missing.returncode == 3
    assert "/gr\\" in missing.stderr


def test_ctrl_c_is_quiet_while_libraries_are_imported(tmp_path: Path) -> None:
    # In place of a module that the command line imports.
    (tmp_path / "shlex.py").write_text(
        "import os, time; os.write(1, b'importing'); time.sleep(60)"
    )
    with subprocess.Popen(
        [*COMMAND, "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": f"{tmp_path}:{TESTS.parent}"},
        cwd=tmp_path,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(9) == b"importing"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
    assert process.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("is_folder", [False, True])
def test_a_signal_leaves_no_temporary_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, is_folder: bool
) -> None:
    def killing() -> Iterator[bytes]:
        yield b"half of it"
        os.kill(os.getpid(), number)
        yield b"the rest"

    def run(_: object) -> int:
        if is_folder:
            with new_folder(tmp_path / "output") as building:
                write_chunks(building / "file", killing())
        else:
            write_chunks(tmp_path / "output", killing())
        raise AssertionError("not interrupted")

    module = SimpleNamespace(add_arguments=lambda parser: None, run=run)
    monkeypatch.setitem(sys.modules, "interrupted_command", module)
    monkeypatch.setitem(COMMANDS, "write", ("interrupted_command", "write"))
    before = signal.getsignal(number)
    assert main(["write"]) == 130
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) is before


def test_an_interruption_stays_one_whatever_a_library_makes_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: object) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise EngineError("onnxruntime cannot be imported") from None
        raise AssertionError("not interrupted")

    module = SimpleNamespace(add_arguments=lambda parser: None, run=run)
    monkeypatch.setitem(sys.modules, "interrupted_command", module)
    monkeypatch.setitem(COMMANDS, "import", ("interrupted_command", "import"))
    assert main(["import"]) == 130
    assert capsys.readouterr() == ("", "")
