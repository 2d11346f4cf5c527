"""Paths on the command line: what can be one, and where a command may write."""

import argparse
import os
import stat
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

    Args:
        target: the file to write.
        kind: what is written, such as `a report`.
        is_former: whether an existing file is a former output of that kind, to replace.

    Raises:
        ConfigError: it exists and is something else, or `require_place` refuses it.
    """
    require_place(target)
    try:
        there = target.lstat()
    except OSError:  # missing; or writing will tell
        return
    if not stat.S_ISREG(there.st_mode):
        raise ConfigError(f"{target} exists and is not a file. Choose another name.")
    if there.st_size and not is_former(target):
        raise ConfigError(
            f"{target} exists and is not {kind} that could be replaced. Choose another name, "
            "or remove it first."
        )


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


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `DATA`, the pictures to train or to measure with."""
    parser.add_argument(
        "data",
        metavar="DATA",
        type=path_text,
        help="a folder or .tar of pictures, a video file, camera:N, or digits",
    )
