"""Two real runs and their reports, as examples.

One on this machine, with estimated power; one on the emulated Orin NX, killed and resumed.
Writes the pages, and screenshots of their beginning on a desktop and a phone (needs Chromium).

    python benchmarks/gallery.py cifar10/train cifar10/test -o docs/gallery
"""

import argparse
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from parts.board_runs import BOARD, HEAT
from parts.common import (
    edge_train,
    edge_train_command,
    package_at,
    say,
    vit_flags,
    worker_environment,
)

from device_tests.browser import open_browser
from device_tests.emulated_board.driving import DriveOptions
from device_tests.emulated_board.running import running_board

PACKAGE = vit_flags(6, 32, (1.0, 0.75, 0.5, 0.25))
EPOCHS, KILL_AFTER_S = 3, 75.0
# This machine has no power sensor: idle and full power are assumed.
ESTIMATE = """id = "small-pc"
name = "small PC, x86-64, 2 processors, power assumed"
[power]
idle_w = 6.0
full_w = 20.0
"""
SIZES = {"desktop": (1280, 1500), "phone": (390, 1500)}


def main(words: Sequence[str] | None = None) -> None:
    """Train, and take screenshots."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train", help="folder of pictures, one sub-folder per class")
    parser.add_argument("test", help="other pictures of the same classes")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True)
    args = parser.parse_args(words)
    args.output.mkdir(parents=True, exist_ok=True)
    with package_at(None, PACKAGE) as package, tempfile.TemporaryDirectory() as folder:
        runs = [
            run_here(package, args, Path(folder)),
            run_on_board(package, args, Path(folder)),
        ]
        pages = [args.output / f"{run.name}.html" for run in runs]
        for run, page in zip(runs, pages, strict=True):
            edge_train(["report", str(run), "-o", str(page)], show=True)
    draw(pages)


def run_here(package: Path, args: argparse.Namespace, folder: Path) -> Path:
    """On this machine, within a time limit."""
    board, run = folder / "board.toml", folder / "x86-64"
    board.write_text(ESTIMATE)
    more = ["--board", str(board)]
    environment = {"EDGE_TRAIN_CACHE": str(folder / "here")}
    edge_train(["profile", str(package), *more], show=True, environment=environment)
    words = ["run", str(package), args.train, "-o", str(run), "--epochs", str(EPOCHS), *more]
    edge_train([*words, "--time", "150s"], show=True, environment=environment)
    evaluate(run, args, more, environment)
    return run


def run_on_board(package: Path, args: argparse.Namespace, folder: Path) -> Path:
    """On the emulated board, within limits of energy and memory, killed once."""
    run = folder / "orin-nx"
    words = ["run", str(package), args.train, "-o", str(run), "--epochs", str(EPOCHS)]
    words += ["--energy", "2500J", "--memory", "700MiB", "--checkpoint-every", "30s"]
    with running_board(BOARD, DriveOptions(heat=HEAT)) as board:
        environment = {**board.environment, "EDGE_TRAIN_CACHE": str(folder / "board")}
        edge_train(["profile", str(package)], show=True, environment=environment)
        variables = {**worker_environment(), **environment}
        process = subprocess.Popen(edge_train_command(words), env=variables)
        try:
            process.wait(KILL_AFTER_S)
            raise SystemExit(f"the run ended within {KILL_AFTER_S:g} s, before it was killed")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        edge_train([*words, "--resume"], show=True, environment=environment)
        evaluate(run, args, [], environment)
    return run


def evaluate(
    run: Path, args: argparse.Namespace, more: Sequence[str], environment: Mapping[str, str]
) -> None:
    """Evaluate the encoder."""
    words = ["eval", str(run), "--train", args.train, "--test", args.test, *more]
    edge_train(words, show=True, environment=environment)


def draw(pages: Sequence[Path]) -> None:
    """Screenshots of the beginning of each page."""
    with open_browser() as browser:
        for page in pages:
            for name, (width_px, height_px) in SIZES.items():
                browser.show(page, width_px=width_px, height_px=height_px)
                picture = page.with_name(f"{page.stem}-{name}.png")
                browser.picture(picture, height_px=height_px)
                say(f"{picture}: {picture.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
