"""edge-train rank: train the ranker of token policy `ranked`, on a machine with torch."""

import argparse
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.export import add_recipe_arguments, load_export, recipe_of
from edge_runtime.cli.output import say, show, show_json
from edge_runtime.cli.paths import add_data_argument, any_path, path_text, require_output
from edge_runtime.cli.quantities import shortened, whole
from edge_runtime.errors import DataError
from edge_runtime.package.names import IMAGES_PREFIX

if TYPE_CHECKING:
    from pathlib import Path

    from edge_runtime.data import FrameSource, PictureSource
    from edge_runtime.package.manifest import ViewGroup
    from edge_runtime.state import Array

BATCH = 32  # pictures that are read at a time
_ADVICE = "Rank fewer pictures, or on a machine with more memory and copy the file."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_recipe_arguments(parser)
    add_data_argument(
        parser,
        sources="a folder or .tar of pictures, a video file, camera:N, or digits; side by "
        "side with RECIPE.toml",
        read=_pictures,
    )
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


def _pictures(text: str) -> str:
    """Read `DATA`, as an argparse type.

    argparse takes RECIPE for DATA where flags stand between the two, or DATA is missing.
    """
    if text.endswith(".toml"):
        raise argparse.ArgumentTypeError(
            f"{shortened(text)!r} is a recipe, not pictures. Give RECIPE.toml and DATA side "
            "by side: edge-train rank recipe.toml pictures --init ..."
        )
    return path_text(text)


def run(args: argparse.Namespace) -> int:
    """Rank, train, write; stages go to stderr."""
    require_output(args.output, "a ranker", _is_ranker)
    ranking = load_export(
        "edge_export.ranking",
        command="rank",
        elsewhere="Rank on another machine and copy the file.",
    )
    from edge_runtime.device import require_room
    from edge_runtime.state import state_chunks
    from edge_runtime.storage import require_writable, write_chunks

    recipe = recipe_of(args)
    needed_bytes = ranking.ranking_bytes(recipe, args.pictures)
    require_room("the ranking", needed_bytes, _ADVICE)
    group, encoder = ranking.view_group(recipe), ranking.split_encoder(recipe, args.init)
    images = _images(args.data, group, args.pictures, recipe.seed)
    require_writable(args.output)  # the search takes long
    trained = ranking.train_ranker(encoder, images, seed=recipe.seed, report=say)
    facts: dict[str, Any] = {
        "path": str(args.output),
        "pictures": len(images),
        "held_out": trained.held_out,
        "overlap": trained.overlap._asdict(),
    }
    # Shown first, so that a full disk does not lose the result.
    if args.json:
        show_json(facts)
    else:
        show(render_text(facts))
    write_chunks(args.output, state_chunks(trained.weights, trained.metadata))
    say(f"wrote {args.output}")
    return 0


def _images(data: str, group: "ViewGroup", pictures: int, seed: int) -> "Array":
    """Views of pictures, each picture once: uint8 (S, size, size, 3).

    A picture that is seen twice would be learned from, and judge the ranker, too.

    Raises:
        DataError: there are too few, or they cannot be read.
    """
    import numpy as np

    from edge_runtime.data import open_source, view_batches

    source, steps = open_source(data), -(-pictures // BATCH)
    different = _different_pictures(source, steps)
    if different < BATCH:
        raise DataError(
            f"{source.name} has {different} picture(s), and a ranker needs at least {BATCH}. "
            "Add pictures."
        )
    with view_batches(
        source,
        [group],
        batch_size=BATCH,
        seed=seed,
        first_step=1,
        last_step=min(steps, different // BATCH),
        threads=None,
    ) as batches:
        views: list[Array] = []
        seen: set[int] = set()
        for batch in batches:
            numbers = (number % different for number in batch.pictures)  # a video restarts
            slots = {number: slot for slot, number in enumerate(numbers) if number not in seen}
            seen |= slots.keys()
            views.append(batch.images[IMAGES_PREFIX + group.name][0, list(slots.values())])
            for bad in batch.skipped:
                say(f"{bad.key} cannot be read and is skipped: {bad.reason}")
    return np.concatenate(views)


def _different_pictures(source: "PictureSource | FrameSource", steps: int) -> int:
    """How many pictures a source has, as far as so many steps read it.

    Frames of a video are counted: its header may be wrong.
    """
    from itertools import islice

    from edge_runtime.data import PictureSource
    from edge_runtime.data.live import VideoFile
    from edge_runtime.data.pool import BATCHES

    if isinstance(source, PictureSource):
        return len(source)
    most = (steps + BATCHES) * BATCH  # frames are mixed
    if isinstance(source, VideoFile):
        return sum(1 for _ in islice(source.frames_once(), most))
    return most


def _is_ranker(file: "Path") -> bool:
    """Whether a file is a ranker of edge-train."""
    from edge_runtime.state import tensor_names

    try:
        return "ranker.score.weight" in tensor_names(file)
    except (OSError, ValueError):
        return False


def render_text(facts: dict[str, Any]) -> str:
    """The result as text."""
    overlap = facts["overlap"]
    return (
        f"{facts['path']}: trained on golden rankings of {facts['pictures']} pictures\n"
        f"of their least important quarter, on {facts['held_out']} held-out pictures, it "
        f"knows {overlap['ranker']:.0%}; the class token's attention "
        f"{overlap['attention']:.0%}, chance {overlap['random']:.0%}"
    )
