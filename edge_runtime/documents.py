"""Files of measurements: JSON with a format number, written whole, read strictly."""

import json
from pathlib import Path
from typing import Any

from edge_runtime.errors import RecordsError
from edge_runtime.reading import read_json
from edge_runtime.schema import shown
from edge_runtime.storage import storage_errors, write_file


def write_document(path: Path, table: Any) -> None:
    """Write a document, complete or not at all, and the folder around it.

    Raises:
        StorageError: the disk is full, read-only or gone.
    """
    with storage_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(table, indent=2) + "\n").encode())


def read_document(path: Path, kind: str, *, version: int, command: str) -> Any:
    """What a document of one format says.

    Args:
        path: the file.
        kind: what it is, for messages.
        version: the number that its key `format` has to have.
        command: measures again, for messages.

    Raises:
        FileNotFoundError: there is none.
        RecordsError: it cannot be read, is no JSON document, or is of another format.
    """
    try:
        table = read_json(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecordsError(
            f"{kind} {path} cannot be read ({reason}). Measure again with `{command}`."
        ) from error
    found = table.get("format") if isinstance(table, dict) else None
    if found != version:
        raise RecordsError(
            f"{kind} {path}: format {shown(found)} is unknown; this edge-train reads format "
            f"{version}. Measure again with `{command}`."
        )
    return table
