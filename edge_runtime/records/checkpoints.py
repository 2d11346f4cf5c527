"""Checkpoints: `checkpoints/<step>/` with `state.safetensors` and `checkpoint.json`.

A checkpoint is complete or absent and verified by its SHA-256; the last two are kept.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.errors import RecordsError
from edge_runtime.facts import Spent
from edge_runtime.reading import open_regular, read_json
from edge_runtime.records.totals import Totals
from edge_runtime.schema import NonNegativeInt, structure, unstructure
from edge_runtime.state import State, TensorKind, load_state, problems_with, state_chunks
from edge_runtime.storage import file_sha256, fsync_path, new_folder, storage_errors

STATE_FILE = "state.safetensors"
INFO_FILE = "checkpoint.json"
KEPT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """The content of `checkpoint.json`."""

    step: NonNegativeInt  # steps done
    epoch: NonNegativeInt  # of the last step
    package_digest: str
    steps_bytes: NonNegativeInt  # length of steps.jsonl up to this step
    state_sha256: str
    spent: Spent  # spent until the checkpoint was begun
    totals: Totals = field(default_factory=Totals)  # zero: written by an older version


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint with its state."""

    path: Path
    info: CheckpointInfo
    state: State  # or the tensors of it that were asked for


def checkpoint_paths(folder: Path) -> list[Path]:
    """All checkpoints of a folder, valid or not, newest first."""
    paths = [path for path in folder.glob("*") if path.name.isdecimal()]
    return sorted(paths, key=lambda path: int(path.name), reverse=True)


def save_checkpoint(
    folder: Path,
    state: State,
    *,
    step: int,
    epoch: int,
    spent: Spent,
    totals: Totals,
    package_digest: str,
    steps_bytes: int,
) -> int:
    """Write `folder/<step>`, then remove all but the last two. Returns the state's bytes.

    Raises:
        StorageError: it cannot be written; the checkpoints before it are unchanged.
    """
    target = folder / str(step)
    with new_folder(target) as building, storage_errors("write", target):
        size_bytes, state_sha256 = _write_state(building / STATE_FILE, state)
        info = CheckpointInfo(
            step=step,
            epoch=epoch,
            package_digest=package_digest,
            steps_bytes=steps_bytes,
            state_sha256=state_sha256,
            spent=spent,
            totals=totals,
        )
        (building / INFO_FILE).write_text(json.dumps(unstructure(info), indent=2) + "\n")
    for old in checkpoint_paths(folder)[KEPT:]:
        remove_checkpoint(old)
    return size_bytes


def _write_state(path: Path, state: State) -> tuple[int, str]:
    """Write a state without copying it; returns its bytes and their SHA-256."""
    size_bytes, digest = 0, hashlib.sha256()
    with path.open("wb") as file:
        for chunk in state_chunks(state):
            file.write(chunk)
            digest.update(chunk)
            size_bytes += len(chunk)
    return size_bytes, digest.hexdigest()


def read_info(path: Path) -> CheckpointInfo:
    """What a checkpoint says of itself.

    Raises:
        RecordsError: it cannot be read.
    """
    file = path / INFO_FILE
    with _damage(path):
        table = read_json(file)
    return structure(CheckpointInfo, table, where=str(file), error=RecordsError)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn what reading a part of a checkpoint raises into `RecordsError`."""
    try:
        yield
    except OSError as error:
        name = Path(error.filename or STATE_FILE).name
        raise RecordsError(f"{path} is damaged: {name}: {error.strerror}.") from error
    except ValueError as error:
        raise RecordsError(f"{path} is damaged: {error}.") from error


def load_checkpoint(
    path: Path,
    *,
    package_digest: str,
    steps_file: Path,
    expected: Mapping[str, TensorKind] | None = None,
    names: Collection[str] | None = None,
) -> Checkpoint:
    """Read and verify one checkpoint.

    Args:
        path: its folder.
        package_digest: the run's.
        steps_file: the run's; a checkpoint that needs lines that it lacks cannot be used.
        expected: dtype and shape of every tensor of its state; `None`: not checked.
        names: the tensors to keep; `None`: the whole state. All of the file is verified.

    Raises:
        RecordsError: a part of it is missing, altered, belongs to another run, or does not
            fit the package.
    """
    info = read_info(path)
    with _damage(path):
        content_sha256 = file_sha256(path / STATE_FILE)
        state = load_state(path / STATE_FILE, names)
    if info.state_sha256 != content_sha256:
        raise RecordsError(f"{path} is damaged: {STATE_FILE} was altered or truncated.")
    if str(info.step) != path.name or info.package_digest != package_digest:
        raise RecordsError(f"{path} belongs to another run.")
    if not _ends_a_line(steps_file, info.steps_bytes):
        raise RecordsError(f"{path} needs lines that {steps_file.name} does not have.")
    if expected is not None:
        wanted = {n: expected[n] for n in (expected if names is None else names)}
        if problems := problems_with(state, wanted):
            raise RecordsError(
                f"{path} is damaged: {STATE_FILE} does not fit the package: {problems[0]} "
                f"({len(problems)} differences)."
            )
    return Checkpoint(path, info, state)


def _ends_a_line(file: Path, size_bytes: int) -> bool:
    """Whether a file of lines has a line that ends after so many bytes."""
    if size_bytes == 0:
        return True
    try:
        with open_regular(file) as lines:
            return os.pread(lines.fileno(), 1, size_bytes - 1) == b"\n"
    except OSError:
        return False


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint: rename it first, then delete its files."""
    with storage_errors("remove", path):
        gone = path.with_name(f".{path.name}-removed")
        os.rename(path, gone)
        shutil.rmtree(gone)


def set_aside(path: Path) -> None:
    """Keep a checkpoint's files as `<step>.diverged`, where nothing loads them."""
    with storage_errors("rename", path):
        aside = path.with_name(f"{path.name}.diverged")
        shutil.rmtree(aside, ignore_errors=True)  # the same step diverged before
        os.rename(path, aside)
        fsync_path(path.parent)
