"""Engine `ort` as a source of gradients: steps that leave the weights as they are.

A step with no learning rate, no weight decay, no memory of earlier gradients and a teacher
that stands still writes the gradient into AdamW's first moment and changes nothing else that
a loss depends on, except buffers and a late teacher, which are set back. So every package has
the graphs for it, on every device and also for rungs with micro-batches.
"""

from typing_extensions import override

from edge_runtime.engines.base import Batch, Hyper
from edge_runtime.engines.ort import OrtEngine
from edge_runtime.engines.runtime import native_errors
from edge_runtime.errors import DivergedError, PackageError
from edge_runtime.package import Package
from edge_runtime.package.names import (
    BETA1,
    BUFFER,
    EMA_MOMENTUM,
    EXP_AVG,
    LATE,
    LEARNING_RATE,
    LOSS_SCALE,
    WEIGHT_DECAY,
)
from edge_runtime.state import State

_STILL = {LEARNING_RATE: 0.0, WEIGHT_DECAY: 0.0, BETA1: 0.0}
_MOST_TRIES = 64  # of a batch in half precision: each halves the scale of the loss


class GradientEngine(OrtEngine):
    """Computes gradients at the state with which it was opened."""

    @override
    def open(self, package: Package, state: State) -> None:
        if missing := _STILL.keys() - package.manifest.hyper_parameters.keys():
            raise PackageError(
                f"{package.path} has no hyper-parameter {' and '.join(sorted(missing))}: its "
                "steps cannot leave the weights as they are. Export it again."
            )
        super().open(package, state)
        self._kept = {
            name: value.copy()
            for name, value in state.items()
            if name.startswith((BUFFER, LATE))
        }

    def gradient(self, rung_id: str, batch: Batch, hyper: Hyper) -> State:
        """The gradient of a batch's loss.

        Args:
            rung_id: the rung.
            batch: images and draws.
            hyper: hyper-parameters of a step; those of the update are replaced.

        Returns:
            The gradient of each parameter that the rung trains, float32, by parameter name;
            valid until the next call.

        Raises:
            DivergedError: it is not finite.
            EngineError: the runtime failed.
        """
        teacher = {EMA_MOMENTUM: 1.0} if EMA_MOMENTUM in hyper else {}
        still = {**hyper, **_STILL, **teacher}
        for _ in range(_MOST_TRIES):
            if self.step(rung_id, batch, still).applied:
                break
            # The smaller scale is kept for all rungs: only the rounding depends on it.
            scale = BUFFER + LOSS_SCALE
            self._kept[scale] = self._held_state.view([scale])[scale].copy()
            self._set_back()
        else:
            raise DivergedError(f"the gradient of rung {rung_id} is not finite.")
        package = self._require_open("read a gradient")
        moments = [
            name
            for name in sorted(package.manifest.changed_state(package.rung(rung_id)))
            if name.startswith(EXP_AVG)
        ]
        with native_errors(f"read the gradient from device {self.device}"):
            self._set_back()
            view = self._held_state.view(moments)
        return {name.removeprefix(EXP_AVG): value for name, value in view.items()}

    def _set_back(self) -> None:
        """Undo what a step changed besides moments."""
        with native_errors(f"write the state to device {self.device}"):
            self._held_state.write(self._kept)
