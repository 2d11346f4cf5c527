"""The README's transcript is the output of its commands, except for numbers."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.cli.main import parser_for
from edge_runtime.version import __version__

ROOT = Path(__file__).parent.parent
DURATION = re.compile(r"(\d+ (h|min) )?(\d+ (min|s)|\d+\.\d+ s)\b")
NUMBER = re.compile(r"[+-]?\d[\d.,]*(e[+-]\d+)?")
HEX = re.compile(r"\b[0-9a-f]{12}\b")


def transcript() -> list[tuple[str, list[str]]]:
    """Commands with the lines that they print."""
    block = re.search(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    commands: list[tuple[str, list[str]]] = []
    for line in block[1].splitlines():
        if line.startswith("$ "):
            commands.append((line.removeprefix("$ "), []))
        elif line:
            commands[-1][1].append(line)
    return commands


def shape_of(lines: list[str]) -> list[str]:
    """Lines without varying parts; the number of progress lines depends on time."""
    kept = [line for line in lines if line and not line.startswith(("step ", "epoch "))]
    masked = (HEX.sub("HASH", line) for line in kept)
    masked = (DURATION.sub("TIME", line) for line in masked)
    masked = (NUMBER.sub("N", line) for line in masked)
    return [" ".join(line.split()) for line in masked]


@pytest.mark.slow
def test_the_commands_print_what_the_readme_shows(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the transcript begins with an export")
    pytest.importorskip("onnxruntime.training", reason="and shows ort-training artifacts")
    commands = transcript()
    assert [shlex.split(command)[1] for command, _ in commands] == ["export", "run", "eval"]
    for command, shown in commands:
        words = shlex.split(command)
        assert words[0] == "edge-train"
        done = subprocess.run(
            [sys.executable, "-m", "edge_runtime.cli.main", *words[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/export"},
        )
        assert done.returncode == 0, done.stdout
        assert shape_of(done.stdout.splitlines()) == shape_of(shown), command


def test_numbers_are_masked_and_words_are_not() -> None:
    lines = [
        "saved run/checkpoints/88 (22.0 MiB in 0.27 s)",
        "step 1/88",
        "12 s",
        "1 min 12 s",
    ]
    assert shape_of(lines) == ["saved run/checkpoints/N (N MiB in TIME)", "TIME", "TIME"]


def test_every_command_of_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text()
    lines = re.findall(r"^(?:\$ |\S*bin/)edge-train (.*)$", text, re.M)
    assert len(lines) >= 7
    for line in lines:
        words = shlex.split(line.partition(" > ")[0])
        assert parser_for(words).parse_args(words)
    assert f"edge_train-{__version__}-py3-none-any.whl" in text
    targets = re.findall(r"^make ([\w-]+)", text, re.M)
    makefile = (ROOT / "Makefile").read_text()
    assert [name for name in targets if not re.search(rf"^{name}:", makefile, re.M)] == []


def test_nothing_is_said_to_come_from_a_package_index() -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for file in [*documents, *(ROOT / "edge_runtime").rglob("*.py")]:
        assert not re.search(r"pip install '?edge-train\b", file.read_text()), file
