"""edge-train inspect: what a training package trains, and what each rung costs."""

import argparse
import json
import math
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.quantities import count_text
from edge_runtime.cli.table import aligned
from edge_runtime.units import bytes_text

if TYPE_CHECKING:
    from edge_runtime.package import Package


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "package", metavar="PKG", type=Path, help="made by `edge-train export`"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Verify the package and describe it."""
    from edge_runtime.package import open_package

    facts = collect(open_package(args.package))
    print(json.dumps(facts) if args.json else render_text(facts))
    return 0


def collect(package: "Package") -> dict[str, Any]:
    """Facts of a package. Sizes are bytes, FLOPs are those of one step."""
    from edge_runtime.schema import unstructure
    from edge_runtime.state import PARAM

    manifest = package.manifest
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
        "tokens": manifest.tokens,
        "batch_size": manifest.batch_size,
        "model": unstructure(manifest.model),
        "views": [
            {"name": group.name, "views": len(group.views), "size_px": group.size_px}
            for group in manifest.views
        ],
        "parameters": sum(parameters),
        "state_tensors": len(manifest.state),
        "state_bytes": manifest.state_bytes,
        "official_artifacts": manifest.official.checkpoint is not None,
        "official_refused": manifest.official.refused,
        "rungs": [
            {
                "id": rung.id,
                "keep_ratio": rung.keep_ratio,
                "tokens_per_block": list(rung.tokens_per_block),
                "flops": rung.flops,
                "micro_batch": rung.micro_batch,
                "peak_activation_bytes": rung.peak_activation_bytes,
                "step_graph_bytes": sizes[rung.step or str(rung.accumulate)],
            }
            for rung in manifest.rungs
        ],
        "size_bytes": sum(sizes.values()),
    }


def render_text(facts: dict[str, Any]) -> str:
    """The facts as text."""
    model, px = facts["model"], facts["model"]["image_size_px"]
    views = ", ".join(
        f"{group['views']} views of {group['size_px']} x {group['size_px']} px"
        for group in facts["views"]
    )
    official = "yes" if facts["official_artifacts"] else f"no: {facts['official_refused']}"
    return "\n".join(
        [
            f"package   {facts['path']}, format {facts['format']}, "
            f"{bytes_text(facts['size_bytes'])}, SHA-256 {facts['digest'][:12]}...",
            f"trains    {facts['method']}, token policy {facts['tokens']}; "
            f"a step takes {facts['batch_size']} pictures, {views}",
            f"model     {model['name']}: {model['depth']} blocks, width {model['width']}, "
            f"{model['heads']} heads, {model['tokens']} tokens; "
            f"{px} x {px} px in patches of {model['patch_size_px']} px",
            f"state     {count_text(facts['parameters'])} parameters; "
            f"{facts['state_tensors']} tensors, {bytes_text(facts['state_bytes'])}",
            f"official  onnxruntime training artifacts: {official}",
            "",
            *_rung_lines(facts["rungs"]),
        ]
    )


def _rung_lines(rungs: list[dict[str, Any]]) -> list[str]:
    most = max(rung["flops"] for rung in rungs)
    rows = [
        ("rung", "keep-ratio", "FLOPs per step", "of most", "step graph", "tokens by block")
    ]
    for rung in rungs:
        row = (
            rung["id"],
            f"{rung['keep_ratio']:g}",
            count_text(rung["flops"]),
            f"{rung['flops'] / most:.0%}",
            bytes_text(rung["step_graph_bytes"]),
            tokens_text(rung["tokens_per_block"]),
        )
        rows.append(row)
    return aligned(rows)


def tokens_text(tokens_per_block: list[int]) -> str:
    """Equal successive counts are grouped: `65 x 4, 33 x 8`."""
    runs = [(tokens, len(list(blocks))) for tokens, blocks in groupby(tokens_per_block)]
    return ", ".join(f"{tokens} x {blocks}" for tokens, blocks in runs)
