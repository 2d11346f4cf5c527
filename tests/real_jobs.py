"""Jobs for `resume_worker.py` on real engines: FOLDER/package and 80 pictures of digits."""

from collections.abc import Sequence
from pathlib import Path

from numpy.typing import NDArray

from edge_runtime.data import PictureSource, open_source
from edge_runtime.engines import Engine, create_engine
from edge_runtime.package import Package, open_package

PICTURES = 80


class FirstPictures:
    """The first pictures of a source."""

    def __init__(self, source: PictureSource, count: int) -> None:
        self._source, self._count = source, count
        self.name = f"the first {count} of {source.name}"
        self.classes: Sequence[str] = source.classes
        self.labels = None if source.labels is None else source.labels[:count]

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        return self._source.key(index)

    def read(self, index: int) -> NDArray:
        return self._source.read(index)


def _job(folder: Path, engine: str) -> tuple[Package, FirstPictures, Engine]:
    digits = open_source("digits")
    assert isinstance(digits, PictureSource)
    package = open_package(folder / "package")
    return package, FirstPictures(digits, PICTURES), create_engine(engine, threads=1)


def ort_job(folder: Path) -> tuple[Package, FirstPictures, Engine]:
    return _job(folder, "ort")


def ort_training_job(folder: Path) -> tuple[Package, FirstPictures, Engine]:
    return _job(folder, "ort-training")
