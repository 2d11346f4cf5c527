"""The commands of docs/tutorial.md, one after the other, on a folder of pictures."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from edge_runtime.data import open_source

ROOT = Path(__file__).parents[1]
PICTURES = 240


@pytest.mark.slow
def test_the_tutorial_leads_to_an_encoder_and_a_report(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="it exports a package")
    digits = open_source("digits")
    for index in range(PICTURES):
        folder = tmp_path / "pictures" / digits.classes[digits.labels[index]]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.png"), digits.read(index)[:, :, ::-1])
    text = (ROOT / "docs/tutorial.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(commands) == 9
    ended_by_its_limit = False
    for program, *words in commands:
        assert program == "edge-train"
        done = subprocess.run(
            [sys.executable, "-m", "edge_runtime.cli.main", *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}:{ROOT}/export",
                "EDGE_TRAIN_CACHE": str(tmp_path / "cache"),
            },
        )
        if "--resume" in words and ended_by_its_limit:  # the tutorial says so
            assert done.returncode == 7
            assert "The nearest budget that works" in done.stderr
            continue
        assert done.returncode == 0, (words, done.stderr)
        ended_by_its_limit = "ended by its time limit" in done.stdout + done.stderr
    assert (tmp_path / "encoder.onnx").stat().st_size > 1000
    assert "time" in (tmp_path / "numbers/budget.csv").read_text()
