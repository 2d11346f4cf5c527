"""edge-train export: write a training package, on a machine with torch."""

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from edge_runtime.cli.output import say, show, show_json
from edge_runtime.cli.paths import any_path, require_place
from edge_runtime.errors import ConfigError, how_to_install
from edge_runtime.package.names import PRECISIONS

_FLAGS = {  # flag -> key of the recipe
    "model": "model.name",
    "image_size": "model.image_size",
    "patch_size": "model.patch_size",
    "depth": "model.depth",
    "width": "model.width",
    "heads": "model.heads",
    "method": "method.name",
    "tokens": "tokens.name",
    "keep_ratios": "keep_ratios",
    "batch_size": "batch_size",
    "precision": "precision",
    "seed": "seed",
}
_ADVICE = (
    "Export a smaller model, picture or batch, or export on a machine with more memory and "
    "copy the folder."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_recipe_arguments(parser)
    parser.add_argument("-o", "--output", type=any_path, required=True, metavar="PKG")
    parser.add_argument(
        "--init", type=any_path, metavar="FILE", help="a timm .safetensors file"
    )
    parser.add_argument(
        "--teacher",
        type=any_path,
        metavar="FILE",
        help="a timm .safetensors file to distil, see distillation.weight",
    )
    parser.add_argument(
        "--ranker",
        type=any_path,
        metavar="FILE",
        help="written by `edge-train rank`, for token policy ranked",
    )
    parser.add_argument(
        "--verify",
        choices=["few", "full"],
        default="few",
        help="compare the first and the last rung with PyTorch on few pictures (default), or "
        "every rung on a whole batch, which takes long",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `recipe_of`; each flag overrides the recipe's value."""
    parser.add_argument("recipe", nargs="?", type=any_path, metavar="RECIPE.toml")
    parser.add_argument("--model", help="timm's name, or a family such as vit_tiny")
    parser.add_argument("--method", help="such as simclr; all are in docs/recipe.md")
    parser.add_argument(
        "--tokens", help="token policy, such as random; all are in docs/recipe.md"
    )
    parser.add_argument("--image-size", type=int, metavar="PX")
    parser.add_argument("--patch-size", type=int, metavar="PX")
    parser.add_argument("--depth", type=int, help="blocks")
    parser.add_argument("--width", type=int, help="of a token")
    parser.add_argument("--heads", type=int, help="of attention")
    parser.add_argument(
        "--keep-ratios",
        type=_ratios,
        metavar="R,R,...",
        help="the ladder, such as 1.0,0.75,0.5",
    )
    parser.add_argument("--batch-size", type=int, help="pictures per step")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of a step's matrix products; fp16 needs a GPU that has it",
    )
    parser.add_argument("--seed", type=int, help="of the initial weights")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_assignment,
        metavar="KEY.PATH=VALUE",
        help="any key of the recipe; the value is TOML, or text",
    )


def run(args: argparse.Namespace) -> int:
    """Export; stages go to stderr when they begin, and their times when they end."""
    require_place(args.output)
    load_export()
    from edge_export.package.build import export_package
    from edge_export.package.room import export_bytes
    from edge_runtime.device import require_room

    recipe, verify_all = recipe_of(args), args.verify == "full"
    require_room("the export", export_bytes(recipe, verify_all=verify_all), _ADVICE)
    stages: list[dict[str, Any]] = []

    def report(stage: str, wall_s: float | None, cpu_s: float | None) -> None:
        if wall_s is None or cpu_s is None:
            say(f"{stage:32}", end="")
            return
        stages.append({"stage": stage, "wall_s": wall_s, "cpu_s": cpu_s})
        say(f" {wall_s:7.2f} s {cpu_s:7.2f} CPU s")

    package = export_package(
        recipe,
        args.output,
        init=args.init,
        teacher=args.teacher,
        ranker=args.ranker,
        report=report,
        verify_all=verify_all,
    )
    manifest = package.manifest
    if args.json:
        show_json({"package": str(args.output), "digest": package.digest, "stages": stages})
        return 0
    cpu_s = sum(stage["cpu_s"] for stage in stages)
    trains = f"{manifest.method}, tokens {manifest.token_policy}, {manifest.model.name}"
    show(f"{args.output}: {trains}")
    show(f"rungs {', '.join(rung.id for rung in manifest.rungs)}; {cpu_s:.1f} CPU s")
    if manifest.ort_training.refused is not None:
        show(f"no ort-training artifacts: {manifest.ort_training.refused}")
    return 0


def recipe_of(args: argparse.Namespace) -> Any:
    """The recipe of file, flags and `--set`, checked.

    Raises:
        ConfigError: the file cannot be read, or the recipe has problems.
    """
    from edge_export.recipe import make_recipe, read_recipe

    table = read_recipe(args.recipe) if args.recipe else {}
    for flag, path in _FLAGS.items():
        if (value := getattr(args, flag)) is not None:
            _set(table, path, value)
    for path, value in args.set:
        _set(table, path, value)
    return make_recipe(table, where=str(args.recipe or "recipe"))


def load_export(
    module: str = "edge_export.package.build",
    *,
    command: str = "export",
    elsewhere: str = "Packages are portable: export on another machine and copy the folder.",
) -> ModuleType:
    """Load a module of the export side, which needs torch and onnx; nothing else does.

    Args:
        module: to load.
        command: that needs it.
        elsewhere: what to do without installing them, a sentence.

    Raises:
        ConfigError: they are not installed or cannot be loaded, or another package of the name
            is found first.
    """
    _refuse_a_namesake()
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{command} needs torch and onnx ({error}): {how_to_install('export')}. "
            f"{elsewhere}"
        ) from error


def _refuse_a_namesake() -> None:
    """Refuse another `edge_export` that Python would find first, without running it."""
    found = importlib.util.find_spec("edge_export")
    root = Path(__file__).resolve().parents[2]  # of a wheel, or of a checkout
    if found is None or found.origin is None:
        return
    if Path(found.origin).resolve().parents[1] not in (root, root / "export"):
        raise ConfigError(
            f"{found.origin} is not the edge_export of this edge-train, and Python finds it "
            "first. Remove its folder from PYTHONPATH, or start in another folder."
        )


def _ratios(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected comma-separated numbers, such as 1.0,0.75,0.5, got {text!r}"
        ) from None


def _assignment(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"expected KEY.PATH=VALUE, got {text!r}")
    return key, _toml_value(value)


def _toml_value(text: str) -> Any:
    from edge_runtime.schema import parse_toml

    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text


def _set(table: dict[str, Any], path: str, value: Any) -> None:
    *folders, key = path.split(".")
    for folder in folders:
        table = table.setdefault(folder, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{path} cannot be set: {folder} is a value, not a table.")
    table[key] = value
