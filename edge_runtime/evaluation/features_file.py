"""An embedding as a file: numpy's .npz, a zip archive of arrays; docs/commands/embed.md.

Written by hand: `numpy.savez` would first make an array of all names, each as long as the
longest, and cannot be kept from pickling.
"""

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy

from edge_runtime.data import picture_name
from edge_runtime.evaluation.embedding import Embedding
from edge_runtime.evaluation.encoder_facts import encoder_metadata
from edge_runtime.printable import printable
from edge_runtime.reading import open_regular
from edge_runtime.state import Array
from edge_runtime.storage import StrPath, new_file, require_replaceable, storage_errors

FORMAT = 1
FEATURES = "a features file of edge-train"
_COMMENT = b"edge-train features"  # the last bytes of the archive
_BLOCK_CHARACTERS = 1 << 18  # of names that are written at once: 1 MiB


def embedding_facts(embedding: Embedding, *, run: StrPath, step: int) -> dict[str, Any]:
    """What an embedding is of, as JSON has it.

    Args:
        embedding: of pictures.
        run: the folder of the run.
        step: of its checkpoint.
    """
    source = embedding.source
    return {
        "format": FORMAT,
        "run": printable(os.fspath(run)),
        "step": step,
        "encoder": encoder_metadata(embedding.package),
        "forward_engine": embedding.forward_engine,
        "data": source.name,
        "pictures": len(embedding.features),
        "skipped": [
            printable(picture_name(source, int(number))) for number in embedding.skipped
        ],
        "classes": list(embedding.classes),
    }


def save_embedding(embedding: Embedding, target: StrPath, *, run: StrPath, step: int) -> int:
    """Write a .npz file and return its size in bytes; arguments of `embedding_facts`.

    Folders above it are made. `numpy.load` reads it without pickle. The same embedding gives
    the same bytes.

    Raises:
        ConfigError: `target` exists and is no such file.
        StorageError: it cannot be written; a former file is unchanged.
    """
    facts = json.dumps(embedding_facts(embedding, run=run, step=step))
    near = embedding.neighbours
    arrays = {
        "facts": np.array(facts),
        "features": embedding.features,
        "neighbours": near.rows,
        "distances": near.distances,
        "mean_distances": near.mean_distances,
        "least_typical": embedding.least_typical,
    }
    if (labels := embedding.labels) is not None:
        arrays["labels"] = labels
    target = Path(target)
    require_replaceable(target, FEATURES, is_features)
    with storage_errors("write", target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with new_file(target) as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.comment = _COMMENT
            for name, array in arrays.items():
                _write(archive, name, array.dtype, array.shape, iter([array]))
            _write_names(archive, embedding)
        return file.tell()


def is_features(path: Path) -> bool:
    """Whether `save_embedding` wrote a file, by its end."""
    try:
        with open_regular(path) as file:
            start = os.fstat(file.fileno()).st_size - len(_COMMENT)
            return start > 0 and os.pread(file.fileno(), len(_COMMENT), start) == _COMMENT
    except OSError:
        return False


def _write_names(archive: zipfile.ZipFile, embedding: Embedding) -> None:
    """The names as an array of text, in which each takes as much as the longest."""
    rows = range(len(embedding.features))
    longest = max(len(embedding.name(row)) for row in rows)
    kind = np.dtype(f"<U{longest}")
    step = max(1, _BLOCK_CHARACTERS // longest)
    blocks = (
        np.array([embedding.name(row) for row in rows[first : first + step]], kind)
        for first in range(0, len(rows), step)
    )
    _write(archive, "pictures", kind, (len(rows),), blocks, zipfile.ZIP_DEFLATED)


def _write(
    archive: zipfile.ZipFile,
    name: str,
    kind: np.dtype[Any],
    shape: tuple[int, ...],
    blocks: Iterator[Array],
    compression: int = zipfile.ZIP_STORED,
) -> None:
    """An array of the archive, which is its blocks one after the other."""
    entry = zipfile.ZipInfo(f"{name}.npy")  # without the time: equal files have equal bytes
    entry.compress_type = compression
    with archive.open(entry, "w", force_zip64=True) as member:
        header = {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(cast(BinaryIO, member), header)
        for block in blocks:
            member.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
