"""Paths on the command line: what can be one, and where a command may write."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from edge_runtime.cli.quantities import shortened
from edge_runtime.errors import ConfigError

_NAME_BYTES, _PATH_BYTES = 255, 4095  # of Linux and its usual file systems


def any_path(text: str) -> Path:
    """Read a path, as an argparse type."""
    return Path(path_text(text))


def path_text(text: str) -> str:
    """Read what may be a path, such as DATA, as an argparse type."""
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        problem = "it has a character that no file name can have"
    else:
        if not text:
            problem = "it is empty"
        elif b"\0" in encoded:
            problem = "it has a character that no file name can have"
        elif len(encoded) > _PATH_BYTES:
            problem = f"it has more than {_PATH_BYTES} bytes"
        elif max(map(len, encoded.split(b"/"))) > _NAME_BYTES:
            problem = f"a name in it has more than {_NAME_BYTES} bytes"
        else:
            return text
    raise argparse.ArgumentTypeError(f"{shortened(text)!r} cannot be a path: {problem}")


def require_output(target: Path, kind: str, is_former: Callable[[Path], bool]) -> None:
    """Refuse to write a file where something else is; every `-o FILE` asks here first.

    Raises:
        ConfigError: `require_place` refuses it, or `require_replaceable`, whose arguments
            these are.
    """
    from edge_runtime.storage import require_replaceable

    require_place(target)
    require_replaceable(target, kind, is_former)


def require_place(target: Path) -> None:
    """Refuse a place inside a training package, or among the records of a run.

    Raises:
        ConfigError: it is such a place.
    """
    from edge_runtime.package.reader import MANIFEST
    from edge_runtime.records.run import OWN_FILES, RUN_FILE, STEPS_FILE

    whole = Path(os.path.realpath(target.parent), target.name)
    for folder in whole.parents:
        # By os.path, which reports no error: writing will.
        if os.path.isfile(folder / MANIFEST) and os.path.isdir(folder / "graphs"):
            raise ConfigError(
                f"{target} lies inside the training package {folder}, which stays as it was "
                "exported. Choose another folder."
            )
        is_run = os.path.isfile(folder / RUN_FILE) and os.path.isfile(folder / STEPS_FILE)
        if is_run and whole.relative_to(folder).parts[0] in OWN_FILES:
            raise ConfigError(
                f"{target} is a place for records of the run {folder}. Choose another name."
            )


def add_package_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `PKG`."""
    parser.add_argument(
        "package", metavar="PKG", type=any_path, help="written by `edge-train export`"
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `RUN`, whose newest encoder is used, and where its package is."""
    parser.add_argument(
        "run_folder", metavar="RUN", type=any_path, help="written by `edge-train run`"
    )
    parser.add_argument(
        "--package",
        metavar="PKG",
        type=any_path,
        help="current folder of the package, if it was moved since the run",
    )


def add_data_argument(
    parser: argparse.ArgumentParser,
    *,
    sources: str = "a folder or .tar of pictures, a video file, camera:N, or digits",
    read: Callable[[str], str] = path_text,
) -> None:
    """Declare `DATA`, the pictures to train or to measure with.

    Args:
        parser: of the command.
        sources: what it can be, for `--help`.
        read: its argparse type.
    """
    parser.add_argument("data", metavar="DATA", type=read, help=sources)
