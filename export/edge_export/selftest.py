"""Export the self-test package: `python -m edge_export.selftest`.

Run it after every change of `export/`.

A test checks that the package inside edge-train is up to date.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch

from edge_export.ort_training import artifacts as ort_training
from edge_export.package.build import export_package
from edge_export.recipe import make_recipe, read_recipe
from edge_export.step.program import Program
from edge_runtime.errors import EngineError
from edge_runtime.package import Package
from edge_runtime.package.names import IMAGES_PREFIX, PARAM
from edge_runtime.schema import unstructure
from edge_runtime.selftest import EXPECTED, FOLDER, PACKAGE, RECIPE, Expected, example_batch


def write_selftest(folder: Path) -> Package:
    """Export the package and compute its expected results; old ones are replaced.

    Args:
        folder: for `package` and `expected.json`.

    Raises:
        EngineError: the official training API is not installed.
    """
    if not ort_training.is_available():
        raise EngineError(
            f"the self-test package needs ort-training artifacts: {ort_training.MISSING}."
        )
    recipe = make_recipe(read_recipe(RECIPE), where=str(RECIPE))
    target = folder / PACKAGE.name
    with tempfile.TemporaryDirectory(dir=folder) as building:
        made = Path(building) / PACKAGE.name
        package = export_package(
            recipe, made, init=None, report=lambda *_: None, verify_all=True
        )
        expected = expected_of(package, Program(recipe))
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    text = json.dumps(unstructure(expected), indent=1)
    (folder / EXPECTED.name).write_text(text + "\n")
    return Package(path=target, manifest=package.manifest, digest=package.digest)


def expected_of(package: Package, program: Program) -> Expected:
    """PyTorch's loss on the rung that keeps the least, and its features."""
    rung = min(package.manifest.rungs, key=lambda rung: rung.keep_ratio)
    settings = next(each for each in program.settings if each.id == rung.id)
    batch = example_batch(package, rung)
    inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
    state = {name: torch.from_numpy(v) for name, v in package.initial_state().items()}
    weights = {name: state[PARAM + name] for name in program.parameters}
    loss, _ = program.bind(settings).loss(weights, {**state, **inputs})
    images = next(value for name, value in inputs.items() if name.startswith(IMAGES_PREFIX))
    features = program.embed(weights, images[0])
    return Expected(rung=rung.id, loss=loss.item(), features=tuple(features[0].tolist()))


if __name__ == "__main__":
    write_selftest(FOLDER)
