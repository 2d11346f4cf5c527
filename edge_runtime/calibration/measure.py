"""Measures the gradients of every rung on the same pictures, stage by stage.

Memory beside that of training: one float32 vector of the trained parameters per rung, and
`_HELD` of the dense rung. Only one rung's graphs are loaded at a time, so rungs take turns
every `_HELD` batches.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from edge_runtime.calibration.estimate import GradientSums
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
from edge_runtime.engines import engine_runtime
from edge_runtime.engines.gradients import GradientEngine
from edge_runtime.engines.runtime import baseline_bytes
from edge_runtime.errors import ConfigError, DivergedError, StoppedError
from edge_runtime.facts import Calibration, CalibrationStage
from edge_runtime.facts.calibration import LEAST_VARIANCE
from edge_runtime.facts.devices import CPU
from edge_runtime.package import Package
from edge_runtime.package.curves import hyper_parameters
from edge_runtime.package.manifest import Rung
from edge_runtime.package.names import EXP_AVG
from edge_runtime.planning.costs import predicted_peak_bytes
from edge_runtime.records import utc_now
from edge_runtime.state import State
from edge_runtime.training import never

_HELD = 4  # gradients of the dense rung in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """Options of `calibrate`."""

    cost_unit: str  # of `facts.calibration.COST_UNITS`
    batches: int = 16  # per stage and rung, from 2
    seed: int = 0
    device: str = CPU
    threads: int | None = None  # of the engine; None: one per processor
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
        ConfigError: fewer than two batches, or no rung beside the dense one.
        DataError: there are fewer pictures than in a batch, or they cannot be read.
        DeviceError: there is too little memory.
        DivergedError: a gradient is not finite.
        EngineError: the engine cannot train the package on this device.
        StoppedError: `stop` returned `True`.
    """
    if options.batches < 2:
        raise ConfigError(f"--batches is {options.batches}; a variance needs at least 2.")
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
        with GradientEngine(device=options.device, threads=options.threads) as engine:
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
        runtime=engine_runtime("ort", options.device),
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
    decoding = decoding_bytes(
        source, manifest.views, batch_size=manifest.batch_size, threads=None
    )
    require_room(
        f"a calibration of {rungs} rungs",
        predicted_peak_bytes(manifest, dense, baseline)
        - baseline
        + (rungs + _HELD) * vector_bytes
        + decoding,
        "Calibrate on a larger machine: the result is that of the package, not of the board.",
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
            raise DivergedError(
                f"{name}: the gradients of rung {self._dense.id} are zero or all the same: "
                "there is nothing to compare."
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
        )
        return self._engine.gradient(rung.id, {**batch.images, **draws}, self._hyper)
