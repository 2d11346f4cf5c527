"""docs/package-format.md names every key, and its example runs."""

import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from handed_over import packages_to_train

from edge_runtime import schema
from edge_runtime.package import manifest, names
from edge_runtime.package.curves import COUNT, SHAPES, Curve

DOCUMENT = (Path(__file__).parents[1] / "docs" / "package-format.md").read_text()
NAMES = Path(str(names.__file__)).read_text()


def test_every_key_of_the_manifest_is_explained() -> None:
    classes = {kind for kind in vars(manifest).values() if is_dataclass(kind)}
    classes -= {schema.Range}
    assert {manifest.Manifest, manifest.Rung, Curve} <= classes
    keys = {field.name for kind in classes for field in fields(kind)}
    assert len(keys) > 50
    assert {key for key in keys if f"`{key}`" not in DOCUMENT} == set()


def test_every_role_is_explained() -> None:
    """Each is a constant after the comment about roles, up to the next comment."""
    _, of_inputs, rest = re.split(r"^# Roles of graph .*\n", NAMES, flags=re.M)
    lines = of_inputs + rest.partition("# Kinds")[0]
    roles = set(re.findall(r'^[A-Z]+ = "(\w+)"', lines, re.M))
    assert len(roles) == 10
    assert {role for role in roles if f"| `{role}` | " not in DOCUMENT} == set()


def test_every_prefix_of_the_state_is_explained() -> None:
    lines = NAMES.partition("# State tensors")[2].partition("# Graph inputs")[0]
    prefixes = set(re.findall(r'^[A-Z_]+ = "([\w.]+)"', lines, re.M))
    assert {"param.", "buffer.", "updates."} < prefixes
    assert {prefix for prefix in prefixes if f"| `{prefix}` | " not in DOCUMENT} == set()


def test_every_shape_of_a_curve_is_explained() -> None:
    assert {shape for shape in SHAPES if f"| `{shape}` | " not in DOCUMENT} == set()
    assert f"`{COUNT}`" in DOCUMENT


def test_the_document_is_of_this_format() -> None:
    assert DOCUMENT.startswith(f"# Training package, format {manifest.FORMAT}\n")


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
    assert len(set(losses)) > 5  # the state is updated
