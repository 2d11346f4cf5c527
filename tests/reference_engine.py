"""The reference: PyTorch's autograd and AdamW with the engines' protocol."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from edge_export.recipe import make_recipe
from edge_export.step.program import Program
from edge_export.step.rung import RungProgram
from edge_runtime.engines import Batch, Hyper, StepResult
from edge_runtime.engines.base import BaseEngine
from edge_runtime.package import Package
from edge_runtime.package.manifest import Rung
from edge_runtime.package.names import BUFFER, EMA, EXP_AVG, EXP_AVG_SQ, PARAM
from edge_runtime.state import State


def program_of(package: Package) -> Program:
    """The program that a package was lowered from."""
    return Program(make_recipe(package.manifest.recipe, where="manifest"))


def rung_of(program: Program, rung_id: str, *, whole: bool = False) -> RungProgram:
    """A rung of a program by its id; `whole`: without its micro-batches."""
    settings = next(each for each in program.settings if each.id == rung_id)
    return program.bind(replace(settings, micro_batch=None) if whole else settings)


class TorchEngine(BaseEngine):
    """Keeps the state as tensors; `gradients` and `selected` are those of the last step."""

    name = "torch"
    runtime = f"torch {torch.__version__}"
    device = "cpu"
    threads = None

    def __init__(self) -> None:
        super().__init__(self.name)
        self.gradients: Mapping[str, Tensor] = {}
        self.selected: dict[str, Tensor] = {}

    def unsupported_reason(self, package: Package, rung: Rung | None = None) -> str | None:
        return None

    def open(self, package: Package, state: State) -> None:
        self._keep(package)
        self._program = program_of(package)
        self._state = {name: torch.from_numpy(value.copy()) for name, value in state.items()}

    def step(
        self, rung_id: str, batch: Batch, hyper: Hyper, following: Batch | None = None
    ) -> StepResult:
        rung = self._require_open("step").rung(rung_id)
        inputs = {
            **self._state,
            **{name: torch.from_numpy(value) for name, value in batch.items()},
            **{name: torch.tensor(value) for name, value in hyper.items()},
        }
        bound = rung_of(self._program, rung.id, whole=True)
        self.gradients, outputs = bound.gradient(inputs)
        self.selected = outputs.selected
        self._adamw(hyper)
        for name in self._program.teacher_names:
            momentum, parameter = hyper["ema_momentum"], self._state[PARAM + name]
            self._state[EMA + name].mul_(momentum).add_(parameter, alpha=1 - momentum)
        self._state |= {BUFFER + name: value for name, value in outputs.buffers.items()}
        metrics = {name: float(value) for name, value in outputs.metrics.items()}
        return StepResult(metrics, applied=True)

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

    def run_periodic(self, graph: str, hyper: Hyper) -> None:
        self._require_open("run a periodic graph")
        raise NotImplementedError(graph)

    def snapshot(self) -> State:
        self._require_open("snapshot")
        return {name: value.numpy().copy() for name, value in self._state.items()}

    def state_view(self) -> State:
        self._require_open("show the state")
        return self.snapshot()
