"""Worker of step_time.py and gpu_step.py: PyTorch from the package's initial weights.

Eager or compiled, on the processor or a GPU, in float32, with TF32 products or with autocast.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from edge_runtime.package import Package
from edge_runtime.package.encoder import to_timm
from edge_runtime.package.names import PARAM
from parts.common import answer
from parts.gpu import Gpu
from parts.plain_vit import SimCLR, VisionTransformer
from parts.step_batch import Job, batch_of, hyper_of, measured, open_job

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

# Names of the projector's parameters: PyTorch's -> the package's
PROJECTOR = {
    "0.weight": "0.weight",
    "0.bias": "0.bias",
    "1.weight": "0.norm.weight",
    "1.bias": "0.norm.bias",
    "3.weight": "1.weight",
    "3.bias": "1.bias",
}


def plain_model(package: Package) -> SimCLR:
    """The plain model with the initial weights of a SimCLR package."""
    manifest, state = package.manifest, package.initial_state()
    facts = manifest.model
    if manifest.method != "simclr" or manifest.token_policy not in ("none", "random"):
        raise SystemExit("the plain model is SimCLR with token policy none or random")
    encoder = VisionTransformer(
        patch_px=facts.patch_size_px,
        tokens=facts.tokens,
        width=facts.width,
        depth=facts.depth,
        heads=facts.heads,
        mean=facts.mean,
        std=facts.std,
    )
    trained = {k.removeprefix(PARAM): v for k, v in state.items() if k.startswith(PARAM)}
    timm = to_timm(manifest.encoder, trained)
    encoder.load_state_dict({name: torch.tensor(value) for name, value in timm.items()})
    projector = {
        name: torch.tensor(trained[f"projector.{ours}"]) for name, ours in PROJECTOR.items()
    }
    widths = (facts.width, *(projector[f"{layer}.weight"].shape[1] for layer in (0, 3)))
    options = manifest.recipe["method"]
    model = SimCLR(encoder, widths, options["temperature"])  # type: ignore[arg-type, index]
    model.projector.load_state_dict(
        {name: value.t() if value.dim() == 2 else value for name, value in projector.items()}
    )
    return model


def work(job: Job) -> dict[str, Any]:
    """Measure PyTorch on a job."""
    if job["threads"] is not None:
        torch.set_num_threads(job["threads"])
    torch.set_float32_matmul_precision("high" if job.get("precision") == "tf32" else "highest")
    device = torch.device(job.get("device", "cpu"))
    package, rung = open_job(job)
    inputs = {name: torch.tensor(value) for name, value in batch_of(package, rung).items()}
    keep = rung.draws[0].input if rung.draws else None
    names = [f"images.{package.manifest.views[0].name}", *([keep] if keep else [])]
    train = Training(plain_model(package).to(device), hyper_of(package, 1), job)

    def batch() -> list[Tensor | None]:
        # As an engine is fed: from the processor's memory in every step
        given: list[Tensor | None] = [inputs[name].to(device) for name in names]
        return given if keep else [*given, None]

    times = measured(
        lambda _: train.step(batch()), job, None if device.type == "cpu" else Gpu()
    )
    return {
        **times,
        "runtime": f"torch {torch.__version__}",
        "flops": train.count_flops(batch()),
    }


class Training:
    """A model and its optimizer, in the precision and the mode of a job."""

    def __init__(self, model: SimCLR, hyper: dict[str, float], job: Job) -> None:
        self._model = model
        self._loss_of = torch.compile(model) if job["engine"] == "compile" else model
        self._optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=hyper["lr"],
            betas=(hyper["beta1"], hyper["beta2"]),
            eps=hyper["eps"],
            weight_decay=hyper["weight_decay"],
            fused=True,
        )
        self._device = next(model.parameters()).device.type
        self._autocast = AUTOCAST.get(job.get("precision", "fp32"))
        # Only float16 needs it; disabled it does nothing
        scales = self._autocast is torch.float16
        self._scaler = torch.amp.GradScaler(self._device, enabled=scales)

    def step(self, batch: list[Tensor | None]) -> float:
        """Train one step; returns the loss, so that the device has finished."""
        self._optimizer.zero_grad()
        with self._cast():
            loss = self._loss_of(*batch)
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return float(loss)

    def count_flops(self, batch: list[Tensor | None]) -> int:
        """Of the products of a step."""
        with FlopCounterMode(display=False) as counter, self._cast():
            self._model(*batch).backward()
        return int(counter.get_total_flops())

    def _cast(self) -> torch.autocast:
        enabled = self._autocast is not None
        return torch.autocast(self._device, dtype=self._autocast, enabled=enabled)


if __name__ == "__main__":
    answer(work)
