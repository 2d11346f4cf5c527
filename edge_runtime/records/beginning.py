"""What a run does before its folder exists, for those who watch: measuring takes minutes.

The texts stand in a hidden file beside the folder to be, which is locked while the process
works on it and removed when the run begins. A file that nobody locks is of a killed process.
"""

from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from edge_runtime.errors import EdgeRuntimeError, RecordsError, StorageError
from edge_runtime.records.jsonl import LineFile, LineReader, is_held


def beginning_file(run_dir: Path) -> Path:
    """Where the texts are, in the folder that the run folder will be in."""
    return run_dir.parent / f".{run_dir.name[:40]}-begins"


class Beginning:
    """Writes what a process does before its run begins; a context manager.

    Nothing depends on it: without a place to write, nobody can watch.
    """

    def __init__(self, run_dir: Path) -> None:
        self._file: LineFile | None = None
        with suppress(EdgeRuntimeError), ExitStack() as opened:
            file = opened.enter_context(closing(LineFile(beginning_file(run_dir))))
            file.hold()
            file.truncate(0)  # what a killed process left
            opened.pop_all()
            self._file = file

    def note(self, text: str) -> None:
        """Write one line."""
        with suppress(StorageError):
            if self._file is not None:
                self._file.append({"text": text})

    def close(self) -> None:
        """Remove the file, if it can be removed; may be called twice."""
        if self._file is not None:
            with suppress(OSError):  # a killed process leaves it, too
                self._file.path.unlink()
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class BeginningReader:
    """Reads what the process of a run that has not begun does now."""

    def __init__(self, run_dir: Path) -> None:
        self._file = beginning_file(run_dir)
        self._reader = LineReader(self._file)

    def poll(self) -> list[str] | None:
        """New texts; `None`: no process is about to begin this run."""
        try:
            if not is_held(self._file):
                return None
            return [str(table.get("text")) for table in self._reader.read()]
        except RecordsError:  # removed meanwhile
            return None
