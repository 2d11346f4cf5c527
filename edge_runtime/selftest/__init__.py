"""A small training package inside edge-train, and its expected results on every machine.

`python -m edge_export.selftest` exports `package/` from `recipe.toml` and computes
`expected.json` with PyTorch. `edge-train doctor` tests engines with it; `edge-train demo`
trains it. Nothing here reads pictures, so that only the engine is tested.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_runtime.engines import (
    Engine,
    ForwardOptions,
    Placement,
    create_engine,
    create_forward_engine,
    encoder_weights,
    placement_of,
)
from edge_runtime.engines.devices import open_device
from edge_runtime.engines.half import half_refusal
from edge_runtime.errors import EngineError, PackageError
from edge_runtime.facts.devices import CPU
from edge_runtime.package import Package, open_package
from edge_runtime.package.curves import hyper_parameters
from edge_runtime.package.manifest import Rung
from edge_runtime.package.names import LOSS, PARAM, STEP
from edge_runtime.reading import read_json
from edge_runtime.schema import structure
from edge_runtime.state import Array, State

FOLDER = Path(__file__).parent  # of a checkout or of an installed wheel
RECIPE, EXPECTED, PACKAGE = (FOLDER / n for n in ("recipe.toml", "expected.json", "package"))

# Two correct runtimes add the same numbers in different order and differ by about 1e-6.
LOSS_TOLERANCE = 1e-4  # of the loss
FEATURE_TOLERANCE = 1e-3  # of the largest feature


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """PyTorch's results for `example_batch` with the initial state."""

    rung: str
    loss: float
    features: tuple[float, ...]  # (width,) of the first picture's first view


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """An engine's training step and embedding, both as expected."""

    engine: str
    runtime: str
    device: str
    rung: str
    loss: float
    expected_loss: float
    step_s: float  # of the first step, loading its graph included
    embedding_s: float  # loading its graph included
    placement: Placement | None  # of the step's nodes; None: on the CPU, or not known
    half_precision: bool  # whether packages of precision fp16 train there


def open_selftest() -> Package:
    """The package.

    Raises:
        PackageError: edge-train is not completely installed.
    """
    return open_package(PACKAGE)


def read_expected() -> Expected:
    """PyTorch's results from when the package was exported.

    Raises:
        PackageError: edge-train is not completely installed.
    """
    try:
        table = read_json(EXPECTED)
    except (OSError, ValueError) as error:
        raise PackageError(
            f"{EXPECTED} cannot be read ({error}). Install edge-train again."
        ) from error
    return structure(Expected, table, where=str(EXPECTED), error=PackageError)


def example_batch(package: Package, rung: Rung) -> dict[str, Array]:
    """Images and draws of one step by input name: noise, the same on every machine.

    Among numpy's random numbers, only a bit generator's words do not depend on its version.
    """
    words = np.random.Philox(key=0)
    batch: dict[str, Array] = {}
    for group in package.manifest.views:
        shape = (
            len(group.views),
            package.manifest.batch_size,
            group.size_px,
            group.size_px,
            3,
        )
        noise = words.random_raw(math.prod(shape)) & np.uint64(255)
        batch[f"images.{group.name}"] = noise.astype(np.uint8).reshape(shape)
    for draw in rung.draws:
        rows = (draw.views, package.manifest.batch_size)
        noise = words.random_raw(math.prod(rows) * draw.population)
        order = noise.reshape(*rows, draw.population).argsort(axis=-1)
        batch[draw.input] = np.sort(order[..., : draw.kept], axis=-1)
    return batch


def try_engine(
    name: str,
    *,
    device: str = CPU,
    threads: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Trial:
    """Train one step, embed one batch, and compare both with PyTorch's results.

    Args:
        name: see `edge_runtime.engines.create_engine`.
        device: on which it computes.
        threads: of the runtime.
        clock: in seconds.

    Raises:
        EngineError: it is not installed, failed, or gave other results.
        PackageError: edge-train is not completely installed.
    """
    package, expected = open_selftest(), read_expected()
    batch = example_batch(package, package.rung(expected.rung))
    state = package.initial_state()
    with create_engine(name, device=device, threads=threads) as engine:
        engine.open(package, state)
        begin_s = clock()
        loss = engine.step(expected.rung, batch, _first_hyper(package)).metrics[LOSS]
        step_s = clock() - begin_s
        problems = list(_step_problems(engine, loss, expected, state))
    begin_s = clock()
    (images,) = (batch[f"images.{group.name}"] for group in package.manifest.views)
    options = ForwardOptions(device=device, threads=threads)
    with create_forward_engine(options=options) as forward:
        forward.open(package, package.manifest.embed, encoder_weights(package, state))
        problems += _feature_problems(forward.run(images[0]), expected, FEATURE_TOLERANCE)
    embedding_s = clock() - begin_s
    if problems:
        raise EngineError(
            f"engine {name} on {engine.runtime} computes wrong results: "
            f"{'; '.join(problems)}. Install another version of the runtime."
        )
    return Trial(
        engine=engine.name,
        runtime=engine.runtime,
        device=engine.device,
        rung=expected.rung,
        loss=loss,
        expected_loss=expected.loss,
        step_s=step_s,
        embedding_s=embedding_s,
        placement=_placement(package, expected, engine.device),
        half_precision=half_refusal(open_device(engine.device)) is None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardTrial:
    """An embedding by a forward engine beside ort, as expected."""

    engine: str
    runtime: str
    device: str
    load_s: float  # of the graph, and of building it where it is not in the cache
    embedding_s: float
    is_captured: bool  # a run is one CUDA graph


def try_tensorrt(device: str, *, clock: Callable[[], float] = time.monotonic) -> ForwardTrial:
    """Embed one batch with forward engine `tensorrt`, and compare with PyTorch's result.

    Args:
        device: an NVIDIA GPU.
        clock: in seconds.

    Raises:
        EngineError: it is not installed, failed, or gave other features.
        NoMemoryError: there is too little memory for it.
        PackageError: edge-train is not completely installed.
    """
    from edge_runtime.engines.tensorrt import FLOAT_TOLERANCE, TensorRtForwardEngine

    package, expected = open_selftest(), read_expected()
    batch = example_batch(package, package.rung(expected.rung))
    (images,) = (batch[f"images.{group.name}"] for group in package.manifest.views)
    weights = encoder_weights(package, package.initial_state())
    begin_s = clock()
    with TensorRtForwardEngine(device=device) as engine:
        engine.open(package, package.manifest.embed, weights)
        loaded_s = clock()
        features = engine.run(images[0])
        embedded_s, is_captured = clock(), engine.is_captured
    if problems := list(_feature_problems(features, expected, FLOAT_TOLERANCE)):
        raise EngineError(
            f"forward engine {engine.name} on {engine.runtime} computes wrong results: "
            f"{'; '.join(problems)}. Use --forward-engine ort."
        )
    return ForwardTrial(
        engine=engine.name,
        runtime=engine.runtime,
        device=engine.device,
        load_s=loaded_s - begin_s,
        embedding_s=embedded_s - loaded_s,
        is_captured=is_captured,
    )


def _placement(package: Package, expected: Expected, device: str) -> Placement | None:
    if device == CPU:
        return None
    step = package.rung(expected.rung).graphs[STEP]
    return placement_of(package, step, open_device(device))


def _first_hyper(package: Package) -> dict[str, float]:
    """Of a first step at the full learning rate, so that parameters change."""
    curves = package.manifest.hyper_parameters
    hyper = hyper_parameters(curves, 1, steps_per_epoch=1, total_steps=1)
    return {**hyper, "lr": curves["lr"].first}


def _step_problems(
    engine: Engine, loss: float, expected: Expected, before: State
) -> Iterator[str]:
    if not math.isclose(loss, expected.loss, rel_tol=LOSS_TOLERANCE):  # nor if it is NaN
        yield f"loss {loss:.6g} instead of {expected.loss:.6g}"
    after = engine.snapshot()
    for name, value in after.items():
        if not np.isfinite(value).all():
            yield f"{name} is not finite after the step"
    parameters = [name for name in before if name.startswith(PARAM)]
    if all(np.array_equal(before[name], after[name]) for name in parameters):
        yield "the step changed no parameter"


def _feature_problems(features: Array, expected: Expected, tolerance: float) -> Iterator[str]:
    wanted = np.array(expected.features)
    error = float(np.abs(features[0] - wanted).max())
    if not error <= tolerance * float(np.abs(wanted).max()):
        yield f"features that are {error:.3g} off"
