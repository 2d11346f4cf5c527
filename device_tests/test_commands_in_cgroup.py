"""Every command in a container in which `run` works, and in one that is too small.

It ends by itself, with exit code 0, or 4 and a message that says what it needs and what there
is; the kernel kills nothing.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from device_tests.cgroup import memory_cgroup
from edge_runtime.selftest import PACKAGE

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
SIZE_BYTES = 132 * MIB  # a run of the package inside edge-train holds 110 MiB at most
SMALL_BYTES = 88 * MIB  # the program and ONNX Runtime, without anything to work on
DATA = ("--train", "digits", "--test", "digits:test")
MAIN = "import sys; from edge_runtime.cli.main import main; sys.exit(main(sys.argv[1:]))"
COMMANDS = {
    "eval": ["eval", "run", *DATA],
    "eval --linear": ["eval", "run", *DATA, "--linear"],
    "embed": ["embed", "run", "digits", "-o", "NEW.npz"],
    "export-encoder .onnx": ["export-encoder", "run", "-o", "NEW.onnx"],
    "export-encoder .safetensors": ["export-encoder", "run", "-o", "NEW.safetensors"],
    "report -o": ["report", "run", "-o", "NEW.html"],
    "report --csv": ["report", "run", "--csv", "NEW"],
    "report --json": ["report", "run", "--json"],
    "watch": ["watch", "run"],
    "watch --json": ["watch", "run", "--json"],
    "doctor": ["doctor"],
    "inspect": ["inspect", str(PACKAGE)],
    "plan": ["plan", str(PACKAGE), "digits", "--time", "1h"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and a cost profile, each made in a container of that size."""
    folder = tmp_path_factory.mktemp("commands")
    run = ["run", str(PACKAGE), "digits", "-o", "run", "--rung", "k050", "--epochs", "2"]
    for words in (run, ["profile", str(PACKAGE), "--time-per-rung", "0.1s"]):
        assert in_container(folder, words).returncode == 0
    return folder


def in_container(
    folder: Path, words: list[str], limit_bytes: int = SIZE_BYTES
) -> "subprocess.CompletedProcess[str]":
    """Run one command in a container; nothing in it may be killed."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "EDGE_TRAIN_CACHE": str(folder / "cache")}
    with memory_cgroup(limit_bytes) as group:
        done = subprocess.run(
            group.command([sys.executable, "-c", MAIN, *words]),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert group.kills == 0, f"{words}: {done.stdout}\n{done.stderr}"
    return done


def own_output(words: list[str], limit_bytes: int) -> list[str]:
    return [word.replace("NEW", f"new-{limit_bytes}") for word in words]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_works_where_the_run_does(folder: Path, name: str) -> None:
    done = in_container(folder, own_output(COMMANDS[name], SIZE_BYTES))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    # No complaint of a library; stdout is for the program that uses the encoder.
    told = r"wrote .*\n" if name.startswith(("embed", "export-encoder")) else ""
    assert re.fullmatch(told, done.stderr), done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_works_or_is_refused_where_a_run_does_not(folder: Path, name: str) -> None:
    done = in_container(folder, own_output(COMMANDS[name], SMALL_BYTES), SMALL_BYTES)
    if name == "plan":  # no rung fits; it needs little itself
        assert (done.returncode, "free here" in done.stderr) == (7, True)
    elif done.returncode:
        # The doctor ends as it should: no engine works here.
        assert done.returncode == (5 if name == "doctor" else 4), done.stderr
        assert "of memory, and there are" in done.stdout + done.stderr


def test_the_doctor_names_what_it_did_not_try(folder: Path) -> None:
    pytest.importorskip("torch")
    done = in_container(folder, ["doctor"])
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("export"))
    assert "no: this trial needs about" in line
    assert done.returncode == 0  # it can train


@pytest.mark.parametrize("name", ["eval --linear", "doctor", "watch"])
def test_on_one_processor_nothing_is_said_about_others(folder: Path, name: str) -> None:
    command = ["taskset", "-c", "0", sys.executable, "-c", MAIN, *COMMANDS[name]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
