"""Packages that are exported in the environment with PyTorch and trained in others.

`python tests/handed_over.py FOLDER` writes one package per method and token policy, one with
micro-batches, one whose teacher is a step late, some in half precision, and next to each the
losses of its first steps in this environment: of engine `ort`, which the parity tests compare
with PyTorch, or of PyTorch itself in half precision, which `ort` refuses on a processor.
`EDGE_TRAIN_TEST_PACKAGES=FOLDER` passes them to the tests of another environment.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from crops import some_crops
from numpy.typing import NDArray

import edge_runtime
from edge_runtime.data import draw_inputs
from edge_runtime.data.randomness import random_words
from edge_runtime.engines import Engine, create_engine
from edge_runtime.package import Package, open_package
from edge_runtime.package.curves import hyper_parameters
from edge_runtime.package.manifest import Rung, ViewGroup

VARIABLE = "EDGE_TRAIN_TEST_PACKAGES"
DEVICE = os.environ.get("EDGE_TRAIN_TEST_DEVICE", "cpu")  # device_tests/ gives others
CHOOSING = ("simprune", "evit", "tome", "ranked")  # by features of the step
STEPS = 4
# Of the half-precision packages here: no step overflows, whatever a device adds up in float16
SCALE = 2.0**4
TEACHER, TEACHER_SIZES = "teacher.safetensors", {"width": 24, "depth": 2, "heads": 3}
SMALL = (
    "--model vit_tiny --image-size 16 --patch-size 4 --depth 3 --width 48 --heads 2 "
    "--batch-size 8"
)


def handed_over() -> list[Path]:
    """The packages of the folder in the variable; empty without it."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return []
    packages = sorted(path.parent for path in Path(folder).glob("*/manifest.json"))
    if not packages:
        raise RuntimeError(f"{VARIABLE}={folder}: no package lies there")
    return packages


def packages_to_train() -> list[Path]:
    """The packages of another environment, or the one inside edge-train."""
    selftest = Path(edge_runtime.__file__).parent / "selftest"
    return handed_over() or sorted(path.parent for path in selftest.rglob("manifest.json"))


def engine_of_device() -> Engine:
    """Engine `ort` on the device that is tested."""
    return create_engine("ort", device=DEVICE, threads=1)


def first_losses(
    path: Path, create: Callable[[], Engine] = engine_of_device
) -> dict[str, list[float]]:
    """The losses of a package's first steps on noise, by rung."""
    package = open_package(path)
    return {rung.id: _losses(package, rung, create) for rung in package.manifest.rungs}


def noted_losses(path: Path) -> dict[str, list[float]]:
    """The losses of the exporting environment."""
    losses: dict[str, list[float]] = json.loads(path.with_suffix(".json").read_text())
    return losses


def _losses(package: Package, rung: Rung, create: Callable[[], Engine]) -> list[float]:
    manifest, losses = package.manifest, []
    batches = [
        range(step * manifest.batch_size, (step + 1) * manifest.batch_size)
        for step in range(1, STEPS + 1)
    ]
    noise = [
        {f"images.{group.name}": _noise(group, pictures) for group in manifest.views}
        for pictures in batches
    ]
    is_late = manifest.teacher_first is not None
    with create() as engine:
        engine.open(package, package.initial_state())
        for step, pictures in enumerate(batches, start=1):
            images, following = noise[step - 1], noise[step : step + 1 if is_late else step]
            crops = some_crops(manifest.views, pictures)
            draws = draw_inputs(rung.draws, seed=0, epoch=0, pictures=pictures, crops=crops)
            hyper = hyper_parameters(
                manifest.hyper_parameters, step, steps_per_epoch=1, total_steps=STEPS
            )
            result = engine.step(rung.id, {**images, **draws}, hyper, *following)
            losses.append(result.metrics["loss"])
    return losses


def _noise(group: ViewGroup, pictures: Sequence[int]) -> NDArray[np.uint8]:
    """Pictures that do not depend on the version of numpy or OpenCV."""
    shape = (len(group.views), len(pictures), group.size_px, group.size_px, 3)
    words = random_words(
        0, "noise", epoch=0, pictures=pictures, views=shape[0], count=group.size_px**2 * 3
    )
    return (words & np.uint64(255)).astype(np.uint8).reshape(shape)


def export_all(folder: Path) -> None:
    """Write every package and its losses."""
    from combinations import METHODS_AND_POLICIES, MODEL
    from teacher_file import write_teacher

    from edge_export.recipe import make_recipe

    folder.mkdir(parents=True, exist_ok=True)
    model = make_recipe({"model": MODEL}, where="test").facts()
    write_teacher(folder / TEACHER, replace(model, **TEACHER_SIZES))
    cases = [*METHODS_AND_POLICIES, ("paired", "random")]
    for method, policy in [*cases, ("distillation", "random")]:
        export_one(folder, method, policy, "fp32")
    export_one(folder, "mocov3", "simprune", "fp32", delay=1)
    for method, policy in cases:
        # Each method and each policy; with a teacher, simprune couples the branches
        if method == "simclr" or policy in ("random", "simprune"):
            export_one(folder, method, policy, "fp16")


def export_one(
    folder: Path, method: str, policy: str, precision: str, delay: int | None = None
) -> None:
    """Write one package and its losses; `delay`: of a teacher before the step."""
    from paired_objective import paired_method
    from reference_engine import TorchEngine

    from edge_runtime.cli.main import main

    is_half = precision == "fp16"
    late = "" if delay is None else "-late"
    path = folder / f"{method}-{policy}{late}{'-fp16' if is_half else ''}"
    options = f"{SMALL} --method {method} --tokens {policy} --precision {precision}"
    with paired_method(), small_scale():
        options += f" --verify full {flags_of(folder, method, policy)}"
        if delay is not None:
            options += f" --set method.teacher_delay={delay}"
        if code := main(["export", *options.split(), "-o", str(path)]):
            sys.exit(code)
        losses = first_losses(path, TorchEngine if is_half else engine_of_device)
    path.with_suffix(".json").write_text(json.dumps(losses))


def flags_of(folder: Path, method: str, policy: str) -> str:
    """The flags that are not the same in all packages."""
    from combinations import MODEL, RATIOS, keep_ratios
    from ranker_file import write_ranker

    ratios = keep_ratios(method, policy) if policy != "none" else [1.0]
    more = ""
    if method == "paired":
        more = '--set micro_batches=[2] --set trained=["all","lora-2"]'
    if method == "distillation":
        ratios = list(RATIOS)
        sizes = {f"teacher.{key}": value for key, value in TEACHER_SIZES.items()}
        keys = {"weight": 1, **sizes}
        more = " ".join(f"--set distillation.{key}={value}" for key, value in keys.items())
        more += f" --teacher {folder / TEACHER}"
    if policy == "ranked":
        file = write_ranker(folder / "ranker.safetensors", MODEL["width"], after=1)
        more += f" --ranker {file}"
    return f"--keep-ratios {','.join(map(str, ratios))} {more}"


@contextmanager
def small_scale() -> Iterator[None]:
    """Half-precision packages begin with `SCALE` during the block."""
    import pytest
    import torch

    from edge_export.declaration import Declaration
    from edge_export.parameters import Buffer
    from edge_export.step.precision import HalfPrecision

    _, good_steps = HalfPrecision.declaration.buffers
    scale = Buffer(name="loss_scale", initial=torch.tensor(SCALE))
    with pytest.MonkeyPatch.context() as patch:
        declaration = Declaration(buffers=(scale, good_steps))
        patch.setattr(HalfPrecision, "declaration", declaration)
        yield


if __name__ == "__main__":
    export_all(Path(sys.argv[1]))
