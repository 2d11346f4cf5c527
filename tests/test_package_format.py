"""docs/package-format.md names every key, and its example runs."""

import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from handed_over import packages_to_train

from edge_runtime.package import manifest

DOCUMENT = (Path(__file__).parents[1] / "docs" / "package-format.md").read_text()


def test_every_key_of_the_manifest_is_explained() -> None:
    classes = [value for value in vars(manifest).values() if is_dataclass(value)]
    keys = {field.name for kind in classes for field in fields(kind)}
    assert len(keys) > 50
    assert {key for key in keys if f"`{key}`" not in DOCUMENT} == set()


def test_every_role_is_explained() -> None:
    roles = {value for name, value in vars(manifest).items() if re.fullmatch("[A-Z]+", name)}
    roles.remove(manifest.FORMAT)
    assert {role for role in roles if f"| `{role}` | " not in DOCUMENT} == set()


@pytest.mark.parametrize("path", packages_to_train()[:1], ids=lambda path: path.name)
def test_the_example_trains(path: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.S)
    script = tmp_path / "read.py"
    script.write_text(example)
    done = subprocess.run(
        [sys.executable, script, path], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    losses = re.findall(r"^step \d+: loss (\S+)$", done.stdout, re.M)
    assert len(losses) == 10
    assert len(set(losses)) > 5  # the state really moves on
