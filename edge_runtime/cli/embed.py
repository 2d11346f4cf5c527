"""edge-train embed: features of pictures, the nearest of each, and the least typical ones."""

import argparse
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.output import say, say_program, show, show_json
from edge_runtime.cli.paths import (
    add_data_argument,
    add_run_arguments,
    any_path,
    require_output,
)
from edge_runtime.cli.profile import add_encoder_arguments, encoder_device
from edge_runtime.cli.quantities import count, whole
from edge_runtime.cli.table import aligned
from edge_runtime.printable import printable

if TYPE_CHECKING:
    from edge_runtime.evaluation import Embedding


_LISTED = 10  # nearest pictures of each in `--json`; the file has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_run_arguments(parser)
    add_data_argument(
        parser, sources="a folder or .tar of pictures, a video file, digits or digits:test"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=any_path,
        required=True,
        help="features.npz, for numpy",
    )
    parser.add_argument(
        "--neighbours",
        metavar="K",
        type=whole(1, 1000),
        default=10,
        help="nearest pictures of each; default: 10",
    )
    parser.add_argument(
        "--top",
        metavar="N",
        type=whole(1, 10_000),
        default=10,
        help="least typical pictures to name; default: 10",
    )
    parser.add_argument(
        "--images",
        metavar="N",
        type=count,
        help="only the first pictures, or frames of a video; default: all",
    )
    add_encoder_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Embed the pictures with the newest checkpoint, write the file, show the result."""
    from edge_runtime.device import limit_numpy_threads

    limit_numpy_threads(args.threads)  # before the next line imports it
    from edge_runtime.data import open_source, picture_count
    from edge_runtime.evaluation import embed, embedding_facts, open_trained, save_embedding
    from edge_runtime.evaluation.features_file import FEATURES, is_features

    require_output(args.output, FEATURES, is_features)
    source = open_source(args.data)
    picture_count(source, args.images)  # refuses a camera before the run is read
    trained = open_trained(args.run_folder, args.package)
    device = encoder_device(args, trained.package)
    embedding = embed(
        trained.package,
        trained.state,
        source,
        images=args.images,
        neighbours=args.neighbours,
        top=args.top,
        device=device,
        forward_engine=args.forward_engine,
        threads=args.threads,
        report=say_program,
    )
    facts = embedding_facts(embedding, run=args.run_folder, step=trained.step)
    # Shown first, so that a full or read-only disk does not lose the result.
    if args.json:
        show_json({"path": str(args.output), **facts, **least_typical_facts(embedding)})
    else:
        show(render_text(embedding, trained.step))
    save_embedding(embedding, args.output, run=args.run_folder, step=trained.step)
    say(f"wrote {args.output}")
    return 0


def least_typical_facts(embedding: "Embedding") -> dict[str, Any]:
    """The least typical pictures, for `--json`."""
    return {
        "neighbours": embedding.neighbours.rows.shape[1],
        "least_typical": [_entry(embedding, row) for row in embedding.least_typical.tolist()],
    }


def _entry(embedding: "Embedding", row: int) -> dict[str, Any]:
    rows, distances, mean_distances = embedding.neighbours
    nearest = zip(rows[row, :_LISTED].tolist(), distances[row].tolist(), strict=False)
    return {
        "row": row,
        "picture": printable(embedding.name(row)),
        "mean_distance": float(mean_distances[row]),
        "nearest": [
            {"row": other, "picture": printable(embedding.name(other)), "distance": distance}
            for other, distance in nearest
        ],
    }


def render_text(embedding: "Embedding", step: int) -> str:
    """The result as text: a line per least typical picture, with its nearest one."""
    pictures, kept = embedding.neighbours.rows.shape
    digest = embedding.package.digest[:12]
    lines = [
        f"{pictures} picture(s) of {embedding.source.name}, "
        f"encoder after {step} steps, package {digest}",
        f"computed by {embedding.forward_engine}",
    ]
    if len(embedding.skipped):
        lines.append(f"{len(embedding.skipped)} could not be read")
    if not kept:
        return "\n".join([*lines, "one picture has no neighbours"])
    rows = [("distance", "picture", "nearest", "")]
    rows += [_line(embedding, row) for row in embedding.least_typical.tolist()]
    lines.append(
        f"the least typical, by mean cosine distance to the {kept} nearest, of 0 to 2:"
    )
    return "\n".join([*lines, *aligned(rows)])


def _line(embedding: "Embedding", row: int) -> tuple[str, str, str, str]:
    rows, distances, mean_distances = embedding.neighbours
    return (
        f"{mean_distances[row]:.4f}",
        printable(embedding.name(row)),
        printable(embedding.name(int(rows[row, 0]))),
        f"{distances[row, 0]:.4f}",
    )
