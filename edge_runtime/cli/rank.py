"""edge-train rank: train the ranker of token policy `ranked`, on a machine with torch."""

import argparse
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.export import add_recipe_arguments, load_export, recipe_of
from edge_runtime.cli.output import say, show, show_json
from edge_runtime.cli.paths import add_data_argument, any_path, require_output
from edge_runtime.cli.quantities import whole
from edge_runtime.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from edge_runtime.package.manifest import ViewGroup
    from edge_runtime.state import Array

BATCH = 32  # pictures that are read at a time
_ADVICE = "Rank fewer pictures, or on a machine with more memory and copy the file."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_recipe_arguments(parser)
    add_data_argument(parser)
    parser.add_argument(
        "--init",
        type=any_path,
        required=True,
        metavar="FILE",
        help="the encoder, a timm .safetensors file: `edge-train export-encoder` writes one",
    )
    parser.add_argument("-o", "--output", type=any_path, required=True, metavar="FILE")
    parser.add_argument(
        "--pictures",
        type=whole(BATCH, 100_000),
        default=512,
        metavar="N",
        help=f"to rank, rounded up to a multiple of {BATCH}; default: 512",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(args: argparse.Namespace) -> int:
    """Rank, train, write; stages go to stderr."""
    require_output(args.output, "a ranker", _is_ranker)
    ranking = load_export("edge_export.ranking")
    from edge_runtime.device import require_room
    from edge_runtime.state import state_chunks
    from edge_runtime.storage import write_chunks

    recipe = recipe_of(args)
    needed_bytes = ranking.ranking_bytes(recipe, args.pictures)
    require_room("the ranking", needed_bytes, _ADVICE)
    group, encoder = ranking.view_group(recipe), ranking.split_encoder(recipe, args.init)
    images = _images(args.data, group, args.pictures, recipe.seed)
    trained = ranking.train_ranker(encoder, images, seed=recipe.seed, report=say)
    write_chunks(args.output, state_chunks(trained.weights, trained.metadata))
    facts: dict[str, Any] = {"path": str(args.output), "pictures": len(images)}
    facts["overlap"] = trained.overlap._asdict()
    if args.json:
        show_json(facts)
    else:
        show(render_text(facts))
    return 0


def _images(data: str, group: "ViewGroup", pictures: int, seed: int) -> "Array":
    """Views of pictures, each picture once: uint8 (S, size, size, 3).

    Raises:
        DataError: there are too few, or they cannot be read.
    """
    import numpy as np

    from edge_runtime.data import PictureSource, open_source, view_batches
    from edge_runtime.package.names import IMAGES_PREFIX

    source, steps = open_source(data), -(-pictures // BATCH)
    if isinstance(source, PictureSource):
        if len(source) < BATCH:
            raise DataError(
                f"{source.name} has {len(source)} picture(s), and a ranker needs at least "
                f"{BATCH}. Add pictures."
            )
        steps = min(steps, len(source) // BATCH)
    with view_batches(
        source,
        [group],
        batch_size=BATCH,
        seed=seed,
        first_step=1,
        last_step=steps,
        threads=None,
    ) as batches:
        views = []
        for batch in batches:
            views.append(batch.images[IMAGES_PREFIX + group.name][0])
            for bad in batch.skipped:
                say(f"{bad.key} cannot be read and is skipped: {bad.reason}")
    return np.concatenate(views)


def _is_ranker(file: "Path") -> bool:
    """Whether a file is a ranker of edge-train."""
    from edge_runtime.state import load_state

    try:
        return bool(load_state(file, ["ranker.score.weight"]))
    except (OSError, ValueError):
        return False


def render_text(facts: dict[str, Any]) -> str:
    """The result as text."""
    overlap = facts["overlap"]
    return (
        f"{facts['path']}: trained on golden rankings of {facts['pictures']} pictures\n"
        "of their least important quarter, on held-out pictures, it knows "
        f"{overlap['ranker']:.0%}; the class token's attention {overlap['attention']:.0%}, "
        f"chance {overlap['random']:.0%}"
    )
