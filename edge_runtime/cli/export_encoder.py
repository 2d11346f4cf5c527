"""edge-train export-encoder: the trained encoder as one file for other programs."""

import argparse

from edge_runtime.cli.output import say, show, show_json
from edge_runtime.cli.paths import add_run_arguments, any_path, require_output
from edge_runtime.units import bytes_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_run_arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=any_path,
        required=True,
        help="encoder.onnx for any ONNX runtime, encoder.safetensors for timm",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Write the encoder of the newest checkpoint, and print a program that uses it."""
    from edge_runtime.evaluation import (
        encoder_metadata,
        example_of_use,
        export_encoder,
        open_trained,
    )
    from edge_runtime.evaluation.encoder_file import ENCODER, is_encoder

    require_output(args.output, ENCODER, is_encoder)
    package, step, state = open_trained(args.run_folder, args.package)
    size_bytes = export_encoder(package, state, args.output)
    if args.json:
        facts: dict[str, object] = {
            "path": str(args.output),
            "size_bytes": size_bytes,
            "step": step,
        }
        facts |= {"package": package.digest, "metadata": encoder_metadata(package)}
        show_json(facts)
    else:
        say(f"wrote {args.output}: encoder after {step} steps, {bytes_text(size_bytes)}")
        show(example_of_use(package.manifest.model, args.output).rstrip())
    return 0
