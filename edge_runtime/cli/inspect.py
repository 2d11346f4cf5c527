"""edge-train inspect: what a training package trains, and what each rung costs."""

import argparse
import math
from itertools import groupby
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.output import show, show_json
from edge_runtime.cli.paths import (
    add_package_argument,
)
from edge_runtime.cli.quantities import count_text
from edge_runtime.cli.table import aligned
from edge_runtime.units import bytes_text

if TYPE_CHECKING:
    from edge_runtime.package import Package

_COLUMNS = (
    "rung",
    "keep-ratio",
    "FLOPs per step",
    "of most",
    "memory, predicted",
    "tokens by block",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_package_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Verify the package and describe it."""
    from edge_runtime.package import open_package

    facts = collect(open_package(args.package))
    if args.json:
        show_json(facts)
    else:
        show(render_text(facts))
    return 0


def collect(package: "Package") -> dict[str, Any]:
    """Facts of a package. Sizes are bytes, FLOPs are those of one step.

    Predicted peaks are of a process that trains the rung with engine `ort`.
    """
    from edge_runtime.package.names import PARAM
    from edge_runtime.planning.costs import RUN_BYTES, predicted_peak_bytes
    from edge_runtime.schema import unstructure

    manifest = package.manifest
    teacher = manifest.teacher_first
    sizes = {name: package.file(name).stat().st_size for name in manifest.sha256}
    parameters = [
        math.prod(shape)
        for name, (_, shape) in package.expected_state().items()
        if name.startswith(PARAM)
    ]
    return {
        "path": str(package.path),
        "format": manifest.format,
        "digest": package.digest,
        "method": manifest.method,
        "token_policy": manifest.token_policy,
        "parametrization": manifest.parametrization,
        "precision": manifest.precision,
        "batch_size": manifest.batch_size,
        "model": unstructure(manifest.model),
        "views": [
            {"name": group.name, "views": len(group.views), "size_px": group.size_px}
            for group in manifest.views
        ],
        "teacher_delay": None if teacher is None else teacher.delay,
        "parameters": sum(parameters),
        "state_tensors": len(manifest.state),
        "state_bytes": manifest.state_bytes,
        "ort_training": manifest.ort_training.checkpoint is not None,
        "ort_training_refused": manifest.ort_training.refused,
        "rungs": [
            {
                "id": rung.id,
                "keep_ratio": rung.keep_ratio,
                "patch_size_px": rung.patch_size_px,
                "trained": rung.trained,
                "micro_batch": rung.micro_batch,
                "tokens_per_block": {k: list(v) for k, v in rung.tokens_per_block.items()},
                "flops": rung.flops,
                "peak_activation_bytes": rung.peak_activation_bytes,
                "predicted_peak_bytes": predicted_peak_bytes(manifest, rung, RUN_BYTES),
                "graph_bytes": sum(sizes[path] for path in rung.graphs.values()),
            }
            for rung in manifest.rungs
        ],
        "size_bytes": sum(sizes.values()),
    }


def render_text(facts: dict[str, Any]) -> str:
    """The facts as text."""
    model, px = facts["model"], facts["model"]["image_size_px"]
    views = ", ".join(
        f"{group['views']} view{'s' if group['views'] > 1 else ''} of "
        f"{group['size_px']} x {group['size_px']} px"
        for group in facts["views"]
    )
    ort_training = "yes" if facts["ort_training"] else f"no: {facts['ort_training_refused']}"
    return "\n".join(
        [
            f"package   {facts['path']}, format {facts['format']}, "
            f"{bytes_text(facts['size_bytes'])}, SHA-256 {facts['digest'][:12]}...",
            f"trains    {facts['method']}, token policy {facts['token_policy']}, "
            f"precision {facts['precision']}; "
            f"a step takes {facts['batch_size']} pictures, {views}",
            f"model     {model['name']}: {model['depth']} blocks, width {model['width']}, "
            f"{model['heads']} heads, {model['tokens']} tokens; "
            f"{px} x {px} px in patches of {model['patch_size_px']} px",
            f"state     {count_text(facts['parameters'])} parameters; "
            f"{facts['state_tensors']} tensors, {bytes_text(facts['state_bytes'])}",
            *_teacher_lines(facts["teacher_delay"]),
            f"artifacts of the official on-device training API: {ort_training}",
            "",
            *_rung_lines(facts["rungs"]),
        ]
    )


def _teacher_lines(delay: int | None) -> list[str]:
    if delay is None:
        return []
    late = f", {delay} step late: it may run while a step does" if delay else ""
    return [f"teacher   runs before the step{late}"]


def _rung_lines(rungs: list[dict[str, Any]]) -> list[str]:
    most = max(rung["flops"] for rung in rungs)
    rows = [_COLUMNS]
    for rung in rungs:
        row = (
            rung["id"],
            f"{rung['keep_ratio']:g}",
            count_text(rung["flops"]),
            f"{rung['flops'] / most:.0%}",
            bytes_text(rung["predicted_peak_bytes"]),
            tokens_text(rung["tokens_per_block"]),
        )
        rows.append(row)
    return aligned(rows)


def tokens_text(tokens_per_block: dict[str, list[int]]) -> str:
    """Equal successive counts are grouped: `65 x 4, 33 x 8`; several view groups are named."""
    texts = {}
    for group, row in tokens_per_block.items():
        runs = [(tokens, len(list(blocks))) for tokens, blocks in groupby(row)]
        texts[group] = ", ".join(f"{tokens} x {blocks}" for tokens, blocks in runs)
    if len(texts) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{group}: {text}" for group, text in texts.items())
