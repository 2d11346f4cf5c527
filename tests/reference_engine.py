"""The reference: PyTorch's autograd and PyTorch's AdamW behind the engines' protocol."""

from collections.abc import Mapping

import torch
from torch import Tensor

from edge_export.recipe import make_recipe
from edge_export.step.program import LOSS, Program
from edge_runtime.engines.base import Batch, EngineSlot, Hyper, Metrics
from edge_runtime.package import Package
from edge_runtime.state import State
from edge_runtime.package.names import EMA, EXP_AVG, EXP_AVG_SQ, PARAM


def program_of(package: Package) -> Program:
    """The program that a package was lowered from."""
    return Program(make_recipe(package.manifest.recipe, where="manifest"))


class TorchEngine:
    """Keeps the state as tensors; `gradients` and `selected` are those of the last step."""

    name = "torch"
    runtime = f"torch {torch.__version__}"
    threads = None

    def __init__(self) -> None:
        self._slot = EngineSlot(self.name)
        self.gradients: Mapping[str, Tensor] = {}
        self.selected: dict[str, Tensor] = {}

    def open(self, package: Package, state: State) -> None:
        self._slot.open(package)
        self._program = program_of(package)
        self._state = {name: torch.from_numpy(value.copy()) for name, value in state.items()}

    def step(self, rung_id: str, batch: Batch, hyper: Hyper) -> Metrics:
        rung = self._slot.package("step").rung(rung_id)
        inputs = {
            **self._state,
            **{name: torch.from_numpy(value) for name, value in batch.items()},
            **{name: torch.tensor(value) for name, value in hyper.items()},
        }
        policy = self._program.policy(rung.keep_ratio)
        self.gradients, metrics = self._program.gradient(policy, inputs)
        self.selected = {key: value for key, value in metrics.items() if key != LOSS}
        self._adamw(hyper)
        for name in self._program.teacher_names:
            momentum, parameter = hyper["ema_momentum"], self._state[PARAM + name]
            self._state[EMA + name].mul_(momentum).add_(parameter, alpha=1 - momentum)
        return {LOSS: float(metrics[LOSS])}

    def _adamw(self, hyper: Hyper) -> None:
        optimizer = torch.optim.AdamW(
            [self._state[PARAM + name] for name in self.gradients],
            lr=hyper["lr"],
            betas=(hyper["beta1"], hyper["beta2"]),
            eps=hyper["eps"],
            weight_decay=hyper["weight_decay"],
        )
        for name, gradient in self.gradients.items():
            parameter = self._state[PARAM + name]
            parameter.grad = gradient.clone()
            optimizer.state[parameter] = {
                "step": torch.tensor(hyper["step"] - 1),
                "exp_avg": self._state[EXP_AVG + name],
                "exp_avg_sq": self._state[EXP_AVG_SQ + name],
            }
        optimizer.step()
        for name in self.gradients:
            self._state[PARAM + name].grad = None

    def snapshot(self) -> State:
        self._slot.package("snapshot")
        return {name: value.numpy().copy() for name, value in self._state.items()}

    def lend(self) -> State:
        return self.snapshot()

    def close(self) -> None:
        self._slot.close()

    def __enter__(self) -> "TorchEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
