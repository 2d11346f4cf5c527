"""The command line around the commands, and `inspect`."""

import argparse
import errno
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_fakes import write_package

import edge_runtime
from edge_runtime import errors
from edge_runtime.cli import main as cli
from edge_runtime.cli.inspect import tokens_text
from edge_runtime.cli.main import COMMANDS, main
from edge_runtime.planning.costs import ARENA
from edge_runtime.units import bytes_text
from edge_runtime.version import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture
def failing(monkeypatch):
    """A command `fail` that raises the given error."""

    def use(error: BaseException) -> None:
        def run(_: argparse.Namespace) -> int:
            raise error

        module = SimpleNamespace(add_arguments=lambda parser: None, run=run)
        monkeypatch.setitem(sys.modules, "failing_command", module)
        monkeypatch.setitem(COMMANDS, "fail", ("failing_command", "fail"))

    return use


def test_help_names_every_command(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(
        name in text and summary.split()[0] in text for name, (_, summary) in COMMANDS.items()
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_print_json(name, capsys) -> None:
    module = importlib.import_module(COMMANDS[name][0])
    assert callable(module.run)
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_the_version(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"edge-train {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["inspect"], "required: PKG"),
        (["run", "pkg", "data"], "required: -o"),
        (["inspect", "pkg", "--jso", "x"], "edge-train inspect: unrecognized arguments: x"),
    ],
)
def test_wrong_usage_exits_2(words, message, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    problem, help_line = capsys.readouterr().err.splitlines()
    assert message in problem
    assert re.fullmatch(r"See `edge-train.* --help`\.", help_line)
    assert problem.partition(":")[0] in help_line  # the page of that command


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ConfigError, 2),
        (errors.PackageError, 3),
        (errors.DeviceError, 4),
        (errors.EngineError, 5),
        (errors.DataError, 6),
        (errors.RecordsError, 6),
        (errors.BudgetError, 7),
        (errors.DivergedError, 8),
        (errors.StorageError, 9),
        (errors.StoppedError, 130),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(failing, capsys, kind, code) -> None:
    failing(kind("that went wrong."))
    assert main(["fail"]) == code
    assert capsys.readouterr() == ("", "edge-train: that went wrong.\n")


def test_a_bug_is_reported_as_a_bug(failing, capsys, monkeypatch) -> None:
    failing(KeyError("nothing there"))
    monkeypatch.delenv("EDGE_TRAIN_DEBUG", raising=False)
    assert main(["fail"]) == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "this is a bug in edge-train: KeyError: 'nothing there'." in text
    assert "EDGE_TRAIN_DEBUG=1 edge-train fail shows a traceback" in text


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EAGAIN, "Resource temporarily unavailable"),
        RuntimeError("can't start new thread"),
        ImportError("libavutil.so.60: failed to map segment from shared object"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=repr,
)
def test_a_shortage_is_no_bug(failing, capsys, error: Exception) -> None:
    failing(error)
    assert main(["fail"]) == 4
    text = capsys.readouterr().err
    assert text.startswith("edge-train: the system gives this process no more memory, threads")
    assert f"({type(error).__name__}: {error}). Raise the limits that `ulimit -a`" in text


@pytest.mark.parametrize(
    "error", [OSError(errno.EBADF, "Bad file descriptor"), OSError("MB")], ids=repr
)
def test_another_error_of_the_system_is_a_bug(failing, capsys, error: Exception) -> None:
    failing(error)
    assert main(["fail"]) == 1
    assert "this is a bug in edge-train: OSError" in capsys.readouterr().err


def test_a_bug_can_be_traced(failing, capsys, monkeypatch) -> None:
    failing(KeyError("nothing there"))
    monkeypatch.setenv("EDGE_TRAIN_DEBUG", "1")
    assert main(["fail"]) == 1
    text = capsys.readouterr().err
    assert text.startswith("Traceback")
    assert "raise error" in text


def test_ctrl_c_is_quiet(failing, capsys) -> None:
    failing(KeyboardInterrupt())
    assert main(["fail"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_closed_reader_is_not_an_error(tmp_path) -> None:
    write_package(tmp_path / "package")
    command = [
        sys.executable,
        "-m",
        "edge_runtime.cli.main",
        "inspect",
        str(tmp_path / "package"),
    ]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed_reader:
        done = subprocess.run(command, stdout=closed_reader, stderr=subprocess.PIPE, cwd=ROOT)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == b""


def test_inspect_describes_a_package(tmp_path, capsys) -> None:
    package = write_package(tmp_path / "package")
    assert main(["inspect", str(package.path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"package   {package.path}, format 5, {bytes_text(size_bytes(package))}, "
        f"SHA-256 {package.digest[:12]}...",
        "trains    simclr, token policy random, precision fp32; a step takes 4 pictures, "
        "2 views of 8 x 8 px",
        "model     vit_fake: 2 blocks, width 64, 1 heads, 5 tokens; "
        "8 x 8 px in patches of 4 px",
        "state     64 parameters; 4 tensors, 1.0 KiB",
        "artifacts of the official on-device training API: no: a fake has none",
        "",
        "rung  keep-ratio  FLOPs per step  of most  memory, predicted  tokens by block",
        "k100  1           80.0 k          100%     100.0 MiB          5 x 2",
        "k050  0.5         48.0 k          60%      100.0 MiB          3 x 2",
    ]


def size_bytes(package) -> int:
    return sum(package.file(name).stat().st_size for name in package.manifest.sha256)


def test_inspect_json_has_everything(tmp_path, capsys) -> None:
    package = write_package(tmp_path / "package")
    assert main(["inspect", str(package.path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["digest"] == package.digest
    assert facts["views"] == [{"name": "global", "views": 2, "size_px": 8}]
    assert facts["parameters"] == 64
    peaks = [rung.pop("predicted_peak_bytes") for rung in facts["rungs"]]
    activations = [rung["peak_activation_bytes"] for rung in facts["rungs"]]
    more = ARENA * (activations[0] - activations[1])
    assert peaks[0] - peaks[1] == pytest.approx(more, abs=1)
    assert facts["rungs"][1] == {
        "id": "k050",
        "keep_ratio": 0.5,
        "patch_size_px": 4,
        "trained": "all",
        "tokens_per_block": {"global": [3, 3]},
        "flops": 48_000,
        "micro_batch": None,
        "peak_activation_bytes": 3 * 4096,
        "graph_bytes": 6,
    }
    assert facts["ort_training"] is False


def test_inspect_refuses_a_folder_without_a_package(tmp_path, capsys) -> None:
    assert main(["inspect", str(tmp_path)]) == 3
    assert "is not a training package" in capsys.readouterr().err


@given(st.lists(st.integers(1, 3), min_size=1))
def test_equal_neighbours_are_counted(tokens) -> None:
    counted = [part.split(" x ") for part in tokens_text({"global": tokens}).split(", ")]
    assert [int(n) for n, times in counted for _ in range(int(times))] == tokens
    assert all(a[0] != b[0] for a, b in pairwise(counted))


def test_several_view_groups_are_named() -> None:
    text = tokens_text({"global": [65, 65, 33], "local": [17, 17, 9]})
    assert text == "global: 65 x 2, 33 x 1; local: 17 x 2, 9 x 1"


def test_all_is_exactly_the_public_surface() -> None:
    for name in edge_runtime.__all__:
        getattr(edge_runtime, name)  # imported when first used
    public = {
        name
        for name, value in vars(edge_runtime).items()
        if not name.startswith("_") and type(value) is not type(sys)
    }
    assert public == set(edge_runtime.__all__)
    assert edge_runtime.__all__ == sorted(edge_runtime.__all__)


def test_an_unknown_public_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="'edge_runtime' has no attribute 'trian'"):
        _ = edge_runtime.trian


def test_a_command_is_imported_only_on_request() -> None:
    assert cli.parser_for(["run"]).parse_args(["run", "p", "d", "-o", "r"]).command
    assert not hasattr(cli.parser_for([]).parse_args(["inspect"]), "command")


@pytest.mark.parametrize(
    "words",
    [["--print-completion", "bash"], ["--print-completion=bash"], ["--print-comp", "bash"]],
)
def test_completion_knows_commands_flags_and_paths(words, capsys) -> None:
    pytest.importorskip("shtab", reason="makes the script")
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    script = capsys.readouterr().out
    assert all(name in script for name in COMMANDS)
    assert "--keep-ratio" in script
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_completion_without_its_library_says_what_is_missing(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 2
    assert "--print-completion needs shtab" in capsys.readouterr().err


def test_every_error_is_in_the_table_of_exit_codes(capsys) -> None:
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type)}
    assert codes <= cli.EXIT_CODES.keys()
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    table = (ROOT / "docs/commands.md").read_text()
    for code, meaning in cli.EXIT_CODES.items():
        assert re.search(rf"^ +{code}  {re.escape(meaning)}$", text, re.M)
        assert f"| {code} | {meaning} |" in table


def test_the_package_is_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edge_runtime", "--version"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (0, f"edge-train {__version__}\n")
