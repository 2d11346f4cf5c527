"""Worker of step_time.py: PyTorch, eager or compiled, from the package's initial weights."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from edge_runtime.package import Package
from edge_runtime.package.encoder import to_timm
from edge_runtime.package.names import PARAM
from parts.common import answer
from parts.plain_vit import SimCLR, VisionTransformer
from parts.step_batch import Job, batch_of, hyper_of, measured, open_job

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
    torch.set_num_threads(job["threads"])
    package, rung = open_job(job)
    inputs = {name: torch.tensor(value) for name, value in batch_of(package, rung).items()}
    views = inputs[f"images.{package.manifest.views[0].name}"]
    keep = inputs[rung.draws[0].input] if rung.draws else None
    model = plain_model(package)
    hyper = hyper_of(package, 1)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=hyper["lr"],
        betas=(hyper["beta1"], hyper["beta2"]),
        eps=hyper["eps"],
        weight_decay=hyper["weight_decay"],
        fused=True,
    )
    loss_of = torch.compile(model) if job["engine"] == "compile" else model

    def step(_: int) -> float:
        optimizer.zero_grad()
        loss = loss_of(views, keep)
        loss.backward()
        optimizer.step()
        return float(loss)

    times = measured(step, job)
    with FlopCounterMode(display=False) as counter:
        model(views, keep).backward()
    return {
        **times,
        "runtime": f"torch {torch.__version__}",
        "flops": counter.get_total_flops(),
    }


if __name__ == "__main__":
    answer(work)
