"""The batches of a run, of which the next one can be seen before its turn."""

from collections.abc import Iterator

from typing_extensions import Self

from edge_runtime.data import ViewBatch
from edge_runtime.errors import EdgeRuntimeError


class Lookahead:
    """Passes batches on in order; holds one that was seen already, or the error in its place.

    An error is raised when its batch is taken: the steps before it are trained.
    """

    def __init__(self, batches: Iterator[ViewBatch]) -> None:
        self._batches = batches
        self._seen: ViewBatch | EdgeRuntimeError | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ViewBatch:
        seen, self._seen = self._seen, None
        if isinstance(seen, EdgeRuntimeError):
            raise seen
        return next(self._batches) if seen is None else seen

    def following(self) -> ViewBatch | None:
        """The next batch, which stays; `None`: there is none, or only an error."""
        if self._seen is None:
            try:
                self._seen = next(self._batches, None)
            except EdgeRuntimeError as error:
                self._seen = error
        return None if isinstance(self._seen, EdgeRuntimeError) else self._seen
