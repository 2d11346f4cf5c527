"""A package, pictures and an engine that need no graph: tiny, deterministic, numpy only.

Also an example of each part of a run folder.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from facts_examples import BUDGET

from edge_runtime.engines import StepResult
from edge_runtime.errors import EngineError, NoMemoryError
from edge_runtime.facts import Spent
from edge_runtime.package import Package, open_package
from edge_runtime.package.curves import COUNT, Curve, constant, cosine
from edge_runtime.package.manifest import FORMAT as PACKAGE_FORMAT
from edge_runtime.package.manifest import (
    AugmentationSpec,
    DrawSpec,
    GraphSpec,
    Manifest,
    ModelFacts,
    NonOverlap,
    OrtTraining,
    Rung,
    TensorSpec,
    ViewGroup,
)
from edge_runtime.records import RunInfo, Settings, events
from edge_runtime.schema import unstructure
from edge_runtime.state import State, encode_state
from edge_runtime.training import TrainingOptions, train

BATCH = 4
NEVER_S = math.inf
EPOCHS, STEPS = 2, 10  # five steps each
WIDTH = 64  # of the one parameter
KEPT = {"k100": (1.0, 4), "k050": (0.5, 2)}  # rung -> keep-ratio, patches kept of 4
CURVES = {
    "lr": Curve(shape="cosine", first=0.01, final=0.0, warmup_epochs=1),
    "weight_decay": cosine(0.05, 0.1),
    "ema_momentum": cosine(0.9, 1.0),
    "beta1": constant(0.9),
    "beta2": constant(0.99),
    "eps": constant(1e-8),
    "step": Curve(shape=COUNT),
}

SETTINGS = Settings(
    package_digest="ab" * 32,
    pictures_digest="cd" * 32,
    state_sha256=None,
    seed=3,
    batch_size=4,
    epochs=2,
    images_per_epoch=None,
    rungs=((1, "k100"), (7, "k050")),
)
INFO = RunInfo(
    format=2,
    created_at="2030-01-01T00:00:00.000+00:00",
    settings=SETTINGS,
    package_path="/somewhere/package",
    source="pictures",
    steps_per_epoch=5,
    total_steps=10,
    engine="fake",
    threads=None,
    versions={"numpy": "2"},
    machine={"logical_cpus": 2, "board": None},
    board="jetson-orin-nx-16gb",
    power_mode="MAXN",
    sensor="ina3221",
    power_is_estimate=False,
    calibration={"VDD_IN": {"gain": 1.02, "offset_w": 0.0}},
    sample_rate_hz=10.0,
    idle_w=5.0,
    budget=BUDGET,
    profile=None,
)
MOMENT = events.Moment(process=1, t_s=0.8)
SPENT = Spent(time_s=12.5, energy_j=50.0, energy_is_estimate=False, lost_s=1.5, lost_j=None)
STEP = events.StepRecord(
    step=1,
    epoch=0,
    rung="k100",
    keep_ratio=1.0,
    loss=0.1 + 0.2,
    lr=1e-4,
    images=4,
    measured=events.Measured(
        process=1, t_s=0.75, step_s=0.5, wait_s=0.25, pause_s=0.0, rss_bytes=None
    ),
)


def write_package(
    folder: Path, *, width: int = WIDTH, seed: int = 0, law: NonOverlap | None = None
) -> Package:
    """A package that passes the reader's checks; its graph files contain no graphs."""
    state = {
        "param.w": np.random.default_rng(seed).normal(size=width).astype(np.float32),
        "ema.w": np.zeros(width, np.float32),
        "exp_avg.w": np.zeros(width, np.float32),
        "exp_avg_sq.w": np.zeros(width, np.float32),
    }
    files = {
        "state.safetensors": encode_state(state),
        "graphs/embed.onnx": empty_graph("embed"),
    }
    files |= {f"graphs/{rung}/step.onnx": empty_graph(rung) for rung in KEPT}
    manifest = Manifest(
        format=PACKAGE_FORMAT,
        producer={},
        recipe={},
        method="simclr",
        token_policy="random",
        parametrization="none",
        precision="fp32",
        batch_size=BATCH,
        model=ModelFacts(
            name="vit_fake",
            image_size_px=8,
            patch_size_px=4,
            width=width,
            depth=2,
            heads=1,
            tokens=5,
            features="class-token",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        views=(
            ViewGroup(name="global", size_px=8, views=(AugmentationSpec(min_area=0.5),) * 2),
        ),
        hyper_parameters=CURVES,
        encoder=(),
        encoder_prefix="param.",
        embed="graphs/embed.onnx",
        merge=None,
        state_file="state.safetensors",
        state=tuple(
            TensorSpec(name=name, dtype="float32", shape=(width,), role="state")
            for name in state
        ),
        rungs=tuple(_rung(rung, *facts, law) for rung, facts in KEPT.items()),
        periodic=(),
        ort_training=OrtTraining(refused="a fake has none", checkpoint=None, update=None),
        graphs={name: _graph(name, state) for name in files if "graphs" in name},
        sha256={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    files["manifest.json"] = json.dumps(unstructure(manifest)).encode()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return open_package(folder)


def empty_graph(producer: str) -> bytes:
    """An ONNX file with nothing but the name of its producer."""
    return bytes([0x12, len(producer)]) + producer.encode()


def _graph(name: str, state: Mapping[str, Any]) -> GraphSpec:
    """The description of a step graph, or of the embedding graph."""

    def spec(name: str, role: str, shape: tuple[int | None, ...], dtype="float32"):
        return TensorSpec(name=name, dtype=dtype, shape=shape, role=role)

    if name.endswith("embed.onnx"):
        inputs = (spec("images", "images", (None, 8, 8, 3), "uint8"),)
        outputs = (spec("features", "features", (None, 4)),)
        return GraphSpec(inputs=inputs, outputs=outputs, nodes=1, flops=None)
    outputs = tuple(spec(f"next.{key}", "state", array.shape) for key, array in state.items())
    metrics = (spec("loss", "metric", ()), spec("target", "metric", ()))
    return GraphSpec(inputs=(), outputs=(*metrics, *outputs), nodes=1, flops=None)


def _rung(rung_id: str, keep_ratio: float, kept: int, law: NonOverlap | None) -> Rung:
    draw = DrawSpec(input="draws.tokens", views=2, kept=kept, population=4, non_overlap=law)
    return Rung(
        id=rung_id,
        keep_ratio=keep_ratio,
        patch_size_px=4,
        trained="all",
        micro_batch=None,
        tokens_per_block={"global": (kept + 1,) * 2},
        flops=1000 * 2 * 2 * BATCH * (kept + 1),  # proportional to token-blocks
        peak_activation_bytes=4096 * (kept + 1),
        draws=(draw,) if kept < 4 else (),
        graphs={"step": f"graphs/{rung_id}/step.onnx"},
        ort_training=None,
    )


class FakePictures:
    """Pictures of one colour each, by number."""

    name = "fake pictures"
    classes = ()
    labels = None

    def __init__(self, count: int = 5 * BATCH, prefix: str = "picture") -> None:
        self._count, self._prefix = count, prefix

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        return f"{self._prefix}-{index}"

    def read(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        rng = np.random.default_rng(index)
        return rng.integers(0, 256, size=(10, 12, 3), dtype=np.uint8)


class FakeEngine:
    """Pulls one vector towards the mean colour of the batch, by AdamW, in float32.

    `broken_loss_at` and `broken_state_at`: steps (from 1) with NaN as loss, or in the state.
    `unsupported`: rungs that it cannot train.
    """

    name = "fake"
    runtime = "numpy"
    device = "cpu"
    threads = None  # one per processor
    forward_engine = None

    def __init__(
        self,
        *,
        broken_loss_at: int = 0,
        broken_state_at: int = 0,
        unsupported: Sequence[str] = (),
    ) -> None:
        self._unsupported = unsupported
        self._broken_loss_at, self._broken_state_at = broken_loss_at, broken_state_at
        self._state: dict[str, Any] | None = None
        self.closed = False

    def open(self, package: Package, state: State) -> None:
        self._state = {name: array.copy() for name, array in state.items()}

    def step(
        self,
        rung_id: str,
        batch: Mapping[str, Any],
        hyper: Mapping[str, float],
        following: Mapping[str, Any] | None = None,
    ) -> StepResult:
        state = self._open_state()
        h = {name: np.float32(value) for name, value in hyper.items()}
        target = np.float32(batch["images.global"].mean() / 255)
        if "draws.tokens" in batch:
            target += np.float32(batch["draws.tokens"].mean())
        error = state["param.w"] - target
        m = h["beta1"] * state["exp_avg.w"] + (1 - h["beta1"]) * error
        v = h["beta2"] * state["exp_avg_sq.w"] + (1 - h["beta2"]) * error**2
        m_hat, v_hat = m / (1 - h["beta1"] ** h["step"]), v / (1 - h["beta2"] ** h["step"])
        w = state["param.w"] * (1 - h["lr"] * h["weight_decay"])
        w = w - h["lr"] * m_hat / (np.sqrt(v_hat) + h["eps"])
        ema = h["ema_momentum"] * state["ema.w"] + (1 - h["ema_momentum"]) * w
        if hyper["step"] == self._broken_state_at:
            w[0] = np.nan
        self._state = {"param.w": w, "ema.w": ema, "exp_avg.w": m, "exp_avg_sq.w": v}
        broken = hyper["step"] == self._broken_loss_at
        loss = math.nan if broken else float((error**2).mean())
        metrics = {"loss": loss, "target": float(target)}
        return StepResult(metrics, applied=True)

    def run_periodic(self, graph: str, hyper: Mapping[str, float]) -> None:
        raise EngineError("the fake package has no periodic graph")

    def unsupported_reason(self, package: Package, rung: Rung | None = None) -> str | None:
        if rung is not None and rung.id in self._unsupported:
            return f"rung {rung.id} is too much for it"
        return None

    def snapshot(self) -> State:
        return {name: array.copy() for name, array in self._open_state().items()}

    def state_view(self) -> State:
        return self._open_state()

    def _open_state(self) -> dict[str, Any]:
        if self._state is None:
            raise EngineError("the fake engine is not open")
        return self._state

    def close(self) -> None:
        self._state, self.closed = None, True

    def __enter__(self) -> "FakeEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FullGpu(FakeEngine):
    """Has no memory for these rungs from step 6 on."""

    device = "webgpu"

    def __init__(self, *too_large: str) -> None:
        super().__init__()
        self._too_large = too_large

    def step(
        self,
        rung_id: str,
        batch: Mapping[str, Any],
        hyper: Mapping[str, float],
        following: Mapping[str, Any] | None = None,
    ) -> StepResult:
        if rung_id in self._too_large and hyper["step"] >= 6:
            raise NoMemoryError(f"no memory for {rung_id}")
        return super().step(rung_id, batch, hyper)


def options(**changes) -> TrainingOptions:
    given = {
        "engine": FakeEngine(),
        "rungs": ((1, "k100"),),
        "epochs": EPOCHS,
        "threads": 1,
        "checkpoint_every_s": NEVER_S,
    }
    return TrainingOptions(**given | changes)


def kinds(yielded, *wanted) -> list[object]:
    return [event for event in yielded if isinstance(event, wanted)]


def run_to_the_end(package, folder, source=None, **changes) -> list[events.Event]:
    return list(train(package, source or FakePictures(), folder, options(**changes)))


def stop_after(polls: int):
    """A `stop` that returns `True` after that many calls."""
    asked = itertools.count()
    return lambda: next(asked) >= polls


def fake_job(folder: Path) -> tuple[Package, FakePictures, FakeEngine]:
    """The job of `resume_worker.py` here."""
    package = folder / "package"
    opened = open_package(package) if package.exists() else write_package(package)
    return opened, FakePictures(), FakeEngine()
