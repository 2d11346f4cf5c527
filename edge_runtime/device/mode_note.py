"""The power mode that was set before is put back.

A note in the cache folder has the mode to put back as long as another one may be set. What
ends this process without warning leaves the note, and the next call puts the mode back first.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.device.machine import boot_id
from edge_runtime.device.power_mode import PowerModes
from edge_runtime.documents import write_document
from edge_runtime.errors import ConfigError, DeviceError, ModeError, RecordsError, StorageError
from edge_runtime.reading import read_json
from edge_runtime.schema import structure, unstructure
from edge_runtime.storage import cache_folder, exclusive_lock

_NOTE, _LOCK = "power-mode.json", "power-mode.lock"
_FORMAT = 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    """The mode to put back."""

    format: int
    kind: str  # of the modes
    mode: str
    boot: str | None  # the system's run in which it was written
    state: dict[str, str]


@contextmanager
def mode_put_back(modes: PowerModes, report: Callable[[str], None]) -> Iterator[str]:
    """The mode that is set now, which is set again after the block, however it ends.

    Args:
        modes: of the board.
        report: called with a line of text if an earlier process has left another mode, and
            if heat still lowers what is put back at the end.

    Raises:
        ModeError: the present mode is unknown, or cannot be put back; the message says how
            to do it.
        DeviceError: another process changes modes now, the note is damaged, or heat lowers
            the limits of the mode that an earlier process has left.
        StorageError: the note cannot be written; no mode was changed.
    """
    note = cache_folder() / _NOTE
    with _only_one(cache_folder() / _LOCK):
        _put_back_left(modes, note, report)
        state, mode = modes.state(), modes.current() or ""
        kept = _Note(format=_FORMAT, kind=modes.kind, mode=mode, boot=boot_id(), state=state)
        write_document(note, unstructure(kept))
        try:
            yield mode
        finally:
            with _signals_ignored():
                held_up = modes.put_back(state)
                note.unlink(missing_ok=True)
                if held_up is not None:
                    report(f"power mode {mode} is set again, but {held_up}")


def put_back_interrupted(modes: PowerModes, report: Callable[[str], None]) -> None:
    """Set the mode that a killed process should have put back, if one has left a note.

    Args:
        modes: of the board.
        report: called with a line of text then.

    Raises:
        ModeError, DeviceError: as of `mode_put_back`.
    """
    with _only_one(cache_folder() / _LOCK):
        _put_back_left(modes, cache_folder() / _NOTE, report)


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """One process at a time."""
    with ExitStack() as held:
        try:
            held.enter_context(exclusive_lock(lock))
        except BlockingIOError as error:
            raise DeviceError(
                "another `edge-train modes` changes the power mode of this board now. Wait "
                "until it has ended."
            ) from error
        yield


def interrupted_mode() -> str | None:
    """What to do if a killed process has left another mode; `None`: none has."""
    try:
        folder = cache_folder()
    except ConfigError:  # without a folder no mode was changed
        return None
    if not os.path.lexists(folder / _NOTE):
        return None
    try:
        with suppress(StorageError), _only_one(folder / _LOCK):
            pass  # no other one runs now, or the lock belongs to another user
        note = _read_note(folder / _NOTE)
    except DeviceError as error:
        return str(error)
    if note is None or _is_undone(note):
        return None
    return (
        "An interrupted `edge-train modes` may have left another power mode than "
        f"{note.mode}, which was set before. The next one puts it back first."
    )


def _read_note(path: Path) -> _Note | None:
    try:
        note = structure(_Note, read_json(path), where=f"note {path}", error=RecordsError)
        if note.format != _FORMAT:
            raise RecordsError(f"its format is {note.format}, this version reads {_FORMAT}")
        return note
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecordsError) as error:
        raise DeviceError(
            f"{path} says which power mode to put back after an interruption, and cannot be "
            f"read ({' '.join(str(error).split())}). Set the mode that you want, and remove "
            "the file."
        ) from error


def _is_undone(note: _Note) -> bool:
    """Whether a restart has undone what was set."""
    return note.kind == "cpufreq" and note.boot != boot_id()


def _put_back_left(modes: PowerModes, path: Path, report: Callable[[str], None]) -> None:
    """Put back what a process left that was killed."""
    note = _read_note(path)
    if note is None:
        return
    if note.kind != modes.kind:
        raise DeviceError(
            f"an interrupted `edge-train modes` had left another mode of {note.kind}, which "
            f"cannot be reached here. Set {note.mode} with it, and remove {path}."
        )
    if not _is_undone(note):
        try:
            held_up = modes.put_back(note.state)
        except ModeError as error:
            raise ModeError(
                f"{error}\nThis is the mode before an interrupted `edge-train modes`. If you "
                f"want another one, set it and remove {path}."
            ) from error
        left = f"an interrupted `edge-train modes` had left another mode; {note.mode} is set"
        if held_up is not None:  # the lower limits would be taken for the state before
            path.unlink(missing_ok=True)
            raise DeviceError(f"{left}, but {held_up}. Try again then.")
        report(left)
    path.unlink(missing_ok=True)


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Let nothing but SIGKILL interrupt the block: an impatient user sends more than one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
