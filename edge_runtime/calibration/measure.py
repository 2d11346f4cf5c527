"""Measures the gradients of every rung on the same pictures, stage by stage.

Memory beside that of training: one float32 vector of the trained parameters per rung, and
`_HELD` of the dense rung. Only one rung's graphs are loaded at a time, so rungs take turns
every `_HELD` batches.

For M batches with gradients g_i of a rung and d_i of the dense rung on the same pictures,
e_i = g_i - d_i, all estimates without bias:

    squared bias   |E e|^2  = (|sum e|^2 - sum |e|^2) / (M (M - 1)): the mean of
                   the products of two different e
    its noise      tr Cov(e) / M, which |mean e|^2 has too much
    variance       tr Cov(g) = (sum |g|^2 - |sum g|^2 / M) / (M - 1)

Pairing is ours: both rungs see the same pictures, so that most of the noise cancels in e_i.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from edge_runtime.calibration.files import FORMAT
from edge_runtime.calibration.stages import Stage
from edge_runtime.data import (
    FrameSource,
    PictureSource,
    ViewBatch,
    decoding_bytes,
    draw_inputs,
    view_batches,
)
from edge_runtime.device import require_room
from edge_runtime.engines import GRADIENTS, ORT, create_gradient_engine, engine_runtime
from edge_runtime.engines.gradients import GradientEngine
from edge_runtime.engines.runtime import baseline_bytes
from edge_runtime.errors import ConfigError, DataError, DivergedError, StoppedError
from edge_runtime.facts import Calibration, CalibrationStage, RungGradient
from edge_runtime.facts.calibration import LEAST_BATCHES, LEAST_VARIANCE, MOST_BATCHES
from edge_runtime.facts.devices import CPU
from edge_runtime.package import Package
from edge_runtime.package.curves import hyper_parameters
from edge_runtime.package.manifest import Rung
from edge_runtime.package.names import BUFFER, EXP_AVG, LATE
from edge_runtime.planning.costs import predicted_peak_bytes
from edge_runtime.records import utc_now
from edge_runtime.state import Array, State
from edge_runtime.training import never

_HELD = 4  # gradients of the dense rung in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """Options of `calibrate`."""

    cost_unit: str  # of `facts.calibration.COST_UNITS`
    batches: int = 16  # per stage and rung
    seed: int = 0
    device: str = CPU
    threads: int | None = None  # of the engine; None: one per processor
    forward_engine: str = ORT  # of the encoders before the package's steps
    run: str | None = None  # from which the stages come; None: the initial state only
    report: Callable[[str], None] = lambda _: None  # called with a line of text
    stop: Callable[[], bool] = never  # called between two gradients


def calibrate(
    package: Package,
    source: PictureSource | FrameSource,
    stages: Sequence[Stage],
    costs: Mapping[str, float],
    options: CalibrationOptions,
) -> Calibration:
    """Measure the gradients of rungs at every stage, each on the same pictures.

    Lin, Wu, Wei, Morgado (NeurIPS 2024) choose a compression by the cost-adjusted error of
    its gradient; docs/planning.md says what is theirs.

    Args:
        package: to train.
        source: of its pictures.
        stages: states of the weights, first to last.
        costs: of a step of each rung to measure, by id; all rungs are of the ladder.
        options: the others.

    Raises:
        ConfigError: too few or too many batches, or no rung beside the dense one.
        DataError: there are fewer pictures than in a batch, they cannot be read, or all
            batches give the dense rung the same gradient.
        DeviceError: there is too little memory.
        DivergedError: a gradient is not finite.
        EngineError: the engine cannot train the package on this device.
        StoppedError: `stop` returned `True`.
    """
    if not LEAST_BATCHES <= options.batches <= MOST_BATCHES:
        raise ConfigError(
            f"batches is {options.batches}; take {LEAST_BATCHES} to {MOST_BATCHES}."
        )
    rungs = [package.rung(rung) for rung in costs]
    if len(rungs) < 2:
        raise ConfigError(
            f"{package.path} has {len(rungs)} rung(s) that can be compared here; a "
            "calibration needs at least 2. Export with several keep-ratios or patch sizes."
        )
    dense = dense_rung(package, rungs)
    _require_memory(package, source, dense, len(rungs))
    measured = []
    for number, stage in enumerate(stages, start=1):
        name = f"stage {number} of {len(stages)} (step {stage.step} of {stage.total_steps})"
        # A new engine: the memory of the stage before is returned
        with create_gradient_engine(
            options.device, options.threads, options.forward_engine
        ) as engine:
            engine.open(package, stage.read_state())
            measure = _StageMeasurement(package, source, stage, rungs, dense, engine, options)
            measured.append(measure.run(name))
    return Calibration(
        format=FORMAT,
        created_at=utc_now(),
        package_digest=package.digest,
        source=source.name,
        run=options.run,
        batches=options.batches,
        batch_size=package.manifest.batch_size,
        seed=options.seed,
        runtime=engine_runtime(GRADIENTS, options.device, options.forward_engine),
        device=options.device,
        dense=dense.id,
        cost_unit=options.cost_unit,
        costs=dict(costs),
        stages=tuple(measured),
    )


def dense_rung(package: Package, rungs: Iterable[Rung]) -> Rung:
    """The rung with the most token-blocks; of several the one without micro-batches."""
    return max(
        rungs,
        key=lambda rung: (package.manifest.token_blocks(rung), rung.micro_batch is None),
    )


def _require_memory(
    package: Package, source: PictureSource | FrameSource, dense: Rung, rungs: int
) -> None:
    """Refuse what does not fit into memory.

    Raises:
        DeviceError: it does not fit.
    """
    manifest, baseline = package.manifest, baseline_bytes()
    changed = manifest.changed_state(dense)
    vector_bytes = sum(
        spec.size_bytes
        for spec in manifest.state
        if spec.name in changed and spec.name.startswith(EXP_AVG)
    )
    set_back = [spec for spec in manifest.state if spec.name.startswith((BUFFER, LATE))]
    decoding = decoding_bytes(
        source, manifest.views, batch_size=manifest.batch_size, threads=None
    )
    require_room(
        f"a calibration of {rungs} rungs",
        predicted_peak_bytes(manifest, dense, baseline)
        - baseline
        + (rungs + _HELD) * vector_bytes
        + sum(spec.size_bytes for spec in set_back)
        + decoding,
        "Calibrate on a larger machine: gradients do not depend on it, only costs do.",
    )


class _StageMeasurement:
    """All rungs at one stage."""

    def __init__(
        self,
        package: Package,
        source: PictureSource | FrameSource,
        stage: Stage,
        rungs: Sequence[Rung],
        dense: Rung,
        engine: GradientEngine,
        options: CalibrationOptions,
    ) -> None:
        self._package, self._source, self._stage = package, source, stage
        self._dense, self._engine, self._options = dense, engine, options
        self._others = [rung for rung in rungs if rung != dense]
        self._sums = {rung.id: GradientSums(rung.id) for rung in rungs}
        self._hyper = hyper_parameters(
            package.manifest.hyper_parameters,
            min(stage.step + 1, stage.total_steps),
            steps_per_epoch=stage.steps_per_epoch,
            total_steps=stage.total_steps,
        )

    def run(self, name: str) -> CalibrationStage:
        """Measure; `name` is that of the stage, for people."""
        options, done = self._options, 0
        manifest = self._package.manifest
        with view_batches(
            self._source,
            manifest.views,
            batch_size=manifest.batch_size,
            seed=options.seed,
            first_step=1,
            last_step=options.batches,
            threads=None,
        ) as batches:
            while group := list(islice(batches, _HELD)):
                self._add(group)
                for skipped in chain.from_iterable(batch.skipped for batch in group):
                    options.report(f"skipped {skipped.key}: {skipped.reason}")
                done += len(group)
                options.report(f"{name}: {done} of {options.batches} batches")
        dense = self._sums[self._dense.id]
        rungs = tuple(sums.against(dense) for sums in self._sums.values())
        stage = CalibrationStage(
            step=self._stage.step,
            progress=self._stage.progress,
            squared_norm=dense.squared_norm(),
            rungs=rungs,
        )
        if stage.of(self._dense.id).variance < LEAST_VARIANCE:
            raise DataError(
                f"{name}: the gradients of rung {self._dense.id} are zero or all the same: "
                "there is nothing to compare. Calibrate with more, and more varied, pictures."
            )
        return stage

    def _add(self, group: Sequence[ViewBatch]) -> None:
        dense, sums = [], self._sums
        for batch in group:
            gradient = self._gradient(self._dense, batch)
            held = {name: value.copy() for name, value in gradient.items()}
            sums[self._dense.id].add(held, held)
            dense.append(held)
        for rung in self._others:
            for batch, held in zip(group, dense, strict=True):
                sums[rung.id].add(self._gradient(rung, batch), held)

    def _gradient(self, rung: Rung, batch: ViewBatch) -> State:
        if self._options.stop():
            raise StoppedError("stopped; an incomplete calibration is not written.")
        draws = draw_inputs(
            rung.draws,
            seed=self._options.seed,
            epoch=batch.epoch,
            pictures=batch.pictures,
            crops=batch.crops,
        )
        return self._engine.gradient(rung.id, {**batch.images, **draws}, self._hyper)


class GradientSums:
    """Sums over the batches of one rung: one float32 vector and two numbers."""

    def __init__(self, rung: str) -> None:
        self._rung = rung
        self._count = 0
        self._sum: dict[str, Array] = {}
        self._squares = self._error_squares = 0.0

    def add(self, gradient: State, dense: State) -> None:
        """Add one batch.

        Args:
            gradient: of the rung, by parameter name, float32.
            dense: of the dense rung for the same pictures; the same object for itself.

        Raises:
            DivergedError: a gradient is not finite.
        """
        squares = math.fsum(map(_square, gradient.values()))
        if not math.isfinite(squares):
            raise DivergedError(
                f"a gradient of rung {self._rung} is not finite: the training has diverged "
                "at this state. Calibrate an earlier checkpoint."
            )
        self._count += 1
        self._squares += squares
        if gradient is not dense:
            differences = (gradient[name] - dense[name] for name in gradient)
            self._error_squares += math.fsum(map(_square, differences))
        for name, value in gradient.items():
            if name in self._sum:
                self._sum[name] += value
            else:
                self._sum[name] = value.copy()

    def squared_norm(self) -> float | None:
        """Of the mean gradient, without the part of the noise; `None`: below the noise."""
        sum_square = math.fsum(map(_square, self._sum.values()))
        norm = _squared_mean(sum_square, self._squares, self._count)
        return norm if norm > 0 else None

    def against(self, dense: "GradientSums") -> RungGradient:
        """Bias and variance of this rung against the dense one, which saw the same batches."""
        count = self._count
        sum_square = math.fsum(map(_square, self._sum.values()))
        error_sums = (self._sum[name] - dense._sum[name] for name in self._sum)
        error_square = math.fsum(map(_square, error_sums))
        squared_bias = _squared_mean(error_square, self._error_squares, count)
        return RungGradient(
            rung=self._rung,
            squared_bias=max(0.0, squared_bias),
            bias_noise=_variance(error_square, self._error_squares, count) / count,
            variance=_variance(sum_square, self._squares, count),
        )


def _square(values: Array) -> float:
    """Squared norm, summed in float64."""
    return float(np.sum(np.square(values, dtype=np.float64)))


def _squared_mean(sum_square: float, squares: float, count: int) -> float:
    """Squared norm of an expectation, from the square of a sum and the sum of squares."""
    return (sum_square - squares) / (count * (count - 1))


def _variance(sum_square: float, squares: float, count: int) -> float:
    """Trace of the covariance; rounding may not make it negative."""
    return max(0.0, (squares - sum_square / count) / (count - 1))
