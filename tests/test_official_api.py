"""The script of docs/official-api.md trains a package with the official training API alone."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.engines import create_engine
from edge_runtime.errors import EngineError
from edge_runtime.package import Package

PAGE = Path(__file__).parent.parent / "docs/official-api.md"


def script() -> str:
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block
    return block[1]


def test_the_script_is_short_and_uses_only_that_api() -> None:
    imports = [line for line in script().splitlines() if "import " in line]
    assert imports == [
        "import json, sys",
        "import numpy as np",
        "from onnxruntime.training.api import CheckpointState, Module, Optimizer",
    ]
    assert len([line for line in script().splitlines() if line]) <= 20


def test_the_script_trains(
    small_package: Callable[[str, str], Package], tmp_path: Path
) -> None:
    try:
        create_engine("ort-training")
    except EngineError as error:
        pytest.skip(str(error))
    package = small_package("simclr", "random")
    done = subprocess.run(
        [sys.executable, "-c", script(), str(package.path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    losses = [float(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(losses) == 20
    assert losses[-1] < 0.9 * losses[0]  # the same pictures repeatedly: it learns them
    assert (tmp_path / "trained").stat().st_size > 0
