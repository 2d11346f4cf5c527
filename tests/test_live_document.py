"""docs/watching.md: its program runs, and its panel is what a run shows."""

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_panel import busy
from training_fakes import stop_after

from edge_runtime.cli.panel_text import panel_text
from edge_runtime.records import open_run
from edge_runtime.selftest import PACKAGE

DOCUMENT = (Path(__file__).parents[1] / "docs/watching.md").read_text()


def documented_program() -> Callable[..., bool]:
    """`train_at_the_dock`."""
    (source,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    names: dict[str, Callable[..., bool]] = {}
    exec(source, names)
    return names["train_at_the_dock"]


def write_pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        picture = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:03}.png"), picture)
    (folder / "000.png").write_bytes(b"no picture")


def test_the_documented_program_is_called_away_and_goes_on(tmp_path) -> None:
    pytest.importorskip("onnxruntime", reason="trains with it")
    train_at_the_dock = documented_program()
    write_pictures(tmp_path / "pictures", 130)
    said: list[str] = []
    job = (PACKAGE, str(tmp_path / "pictures"), tmp_path / "run")
    assert not train_at_the_dock(*job, stop_after(3), said.append)
    assert [text.split(":")[0] for text in said if text.startswith("step")] == [
        "step 1",
        "step 2",
        "step 3",
    ]
    assert said[-1] == "safe up to step 3"
    assert train_at_the_dock(*job, lambda: False, said.append)
    assert re.fullmatch(r"done in \d+ s", said[-1])
    assert [record.step for record in open_run(tmp_path / "run").steps()] == [1, 2, 3, 4]
    unreadable = [text for text in said if text.startswith("cannot read 000.png: ")]
    assert unreadable


def test_the_panel_of_the_document_has_the_lines_of_a_real_one() -> None:
    (shown,) = re.findall(r"```\n(run  training\n.*?)```", DOCUMENT, re.DOTALL)
    real = panel_text(busy(), Path("run"), width=79, height=23)
    assert labels(shown.splitlines()) == labels([line.plain for line in real])


def labels(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines if re.match(r"[a-z]", line)]
