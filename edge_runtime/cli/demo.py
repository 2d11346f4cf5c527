"""edge-train demo: all steps on the embedded digits, by the commands that a user types."""

import argparse
import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime.cli.output import show, show_json
from edge_runtime.cli.paths import any_path, require_place
from edge_runtime.cli.quantities import count, seed
from edge_runtime.errors import ConfigError, StoppedError, how_to_install
from edge_runtime.units import duration_text

KEEP_RATIO = 0.75


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=any_path,
        default=Path("edge-train-demo"),
        help="folder to create; default: edge-train-demo",
    )
    parser.add_argument("--epochs", metavar="N", type=count, default=100, help="default: 100")
    parser.add_argument("--seed", metavar="S", type=seed, default=0, help="default: 0")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document; everything else goes to stderr",
    )


def run(args: argparse.Namespace) -> int:
    """Export or copy a package, train it, evaluate the encoder."""
    from edge_runtime.engines import create_engine

    folder: Path = args.output
    require_place(folder)
    if folder.exists():
        raise ConfigError(f"{folder} exists. Remove it, or choose another folder with -o.")
    create_engine("auto")  # fails early without an engine
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
        exported = make_package(folder, args.seed)
        train(folder, args.epochs, args.seed)
        command("eval", folder / "run", "--train", "digits", "--test", "digits:test")
    facts = collect(folder, exported=exported, epochs=args.epochs, seed=args.seed)
    if args.json:
        show_json(facts)
    else:
        show(render_text(facts))
    return 0


def make_package(folder: Path, seed: int) -> bool:
    """Export the demo's package, or copy the embedded one; returns whether it exported."""
    from edge_runtime.cli.export import load_export
    from edge_runtime.selftest import PACKAGE, RECIPE
    from edge_runtime.storage import new_folder, storage_errors

    with new_folder(folder) as building, storage_errors("write", folder):
        shutil.copyfile(RECIPE, building / RECIPE.name)
    try:
        load_export()
    except ConfigError:
        show(
            f"Without torch, {folder / 'package'} is a copy of the package inside edge-train."
        )
        with new_folder(folder / "package") as building, storage_errors("write", folder):
            shutil.copytree(PACKAGE, building, dirs_exist_ok=True)
        return False
    words = ("export", folder / RECIPE.name, "-o", folder / "package")
    command(*words, *(["--seed", seed] if seed else []))
    return True


def train(folder: Path, epochs: int, seed: int) -> None:
    """Train on the digits, without their labels."""
    words: list[object] = ["run", folder / "package", "digits", "-o", folder / "run"]
    words += ["--keep-ratio", KEEP_RATIO, "--epochs", epochs]
    words += ["--seed", seed] if seed else []
    try:
        command(*words)
    except StoppedError as error:
        raise StoppedError(
            f"the demo was stopped while it trained; continue with `{_typed(words)} --resume`."
        ) from error


def command(*words: object) -> None:
    """Print a command and run it.

    Raises:
        EdgeRuntimeError: any error of the command.
    """
    from edge_runtime.cli.main import parser_for

    show(f"\n$ {_typed(words)}")
    typed = [str(word) for word in words]
    args = parser_for(typed).parse_args(typed)
    args.command(args)


def _typed(words: Sequence[object]) -> str:
    return f"{_program()} {shlex.join(map(str, words))}"


def _program() -> str:
    """What to type for this program, here."""
    called = Path(sys.argv[0])
    if called.parts[-2:] == ("edge_runtime", "__main__.py"):
        return f"{shlex.quote(sys.executable)} -m edge_runtime"
    on_path = shutil.which("edge-train")
    if called.name != "edge-train" or not called.exists():
        return "edge-train"
    if on_path is not None and os.path.samefile(on_path, called):
        return "edge-train"
    return shlex.quote(str(called))


def collect(folder: Path, *, exported: bool, epochs: int, seed: int) -> dict[str, Any]:
    """The result, read from the run folder. Accuracies are in [0, 1]."""
    from edge_runtime.records import events, open_run
    from edge_runtime.schema import unstructure

    finished_run = open_run(folder / "run")
    logged = [entry.event for entry in finished_run.events()]
    (finished,) = (event for event in logged if isinstance(event, events.Finished))
    (evaluation,) = (event for event in logged if isinstance(event, events.Evaluation))
    results = evaluation.results
    gain = results.knn.accuracy - results.knn.untrained_accuracy
    return {
        "folder": str(folder),
        "package": results.package,
        "exported": exported,
        "seed": seed,
        "epochs": epochs,
        "steps": finished.steps,
        "keep_ratio": KEEP_RATIO,
        "training_pictures": results.train.pictures,
        "test_pictures": results.test.pictures,
        "training_s": finished.elapsed_s,
        "knn": unstructure(results.knn),
        "gain_points": 100 * gain,
        "engine": finished_run.info.engine,
        "versions": finished_run.info.versions,
        "machine": finished_run.info.machine,
    }


def render_text(facts: dict[str, Any]) -> str:
    """The result as text, with next steps."""
    knn = facts["knn"]
    lines = [
        "",
        f"{facts['epochs']} epochs on {facts['training_pictures']} handwritten digits, "
        f"without their labels, took {duration_text(facts['training_s'])}.",
        f"Nearest-neighbour classification of {facts['test_pictures']} digits of other "
        f"writers: {knn['accuracy']:.1%} correct,",
        f"before training {knn['untrained_accuracy']:.1%}: "
        f"{facts['gain_points']:+.1f} points.",
        "",
        *_next_commands(Path(facts["folder"])),
    ]
    if not facts["exported"]:
        lines.append(
            f"`export` needs torch, on this or another machine: {how_to_install('export')}."
        )
    return "\n".join(lines)


def _next_commands(folder: Path) -> list[str]:
    run = folder / "run"
    of_demo: list[list[object]] = [
        ["watch", run],
        ["export-encoder", run, "-o", folder / "encoder.onnx"],
    ]
    own: list[Sequence[object]] = [
        shlex.split("export --model vit_tiny --image-size 64 --patch-size 8 -o pkg"),
        shlex.split("run pkg PICTURES -o run --keep-ratio 0.75"),
        ["export-encoder", "run", "-o", "encoder.safetensors"],
    ]
    return [
        "More of this run:",
        *(f"  {_typed(words)}" for words in of_demo),
        "With your own pictures, in a folder PICTURES:",
        *(f"  {_typed(words)}" for words in own),
    ]
