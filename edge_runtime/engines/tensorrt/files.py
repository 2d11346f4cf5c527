"""Files of the cache that hold what TensorRT has built, each with what it was built for.

A file is one line of JSON, then the content that the line describes. What cannot be read, is
cut short, damaged, or was built for something else counts as missing: it is built again, and
its file replaced as a whole. So processes may share the cache.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.reading import parse_json, read_file
from edge_runtime.storage import CACHE, cache_folder, storage_errors, write_chunks

_MOST_BYTES = 4 << 30  # an engine without weights has some megabytes
_NAME = 16  # digits of the key's hash in a file name

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachedFile:
    """What is kept for one key."""

    kind: str  # "engine" or "timing": the first word of the file's name
    key: Mapping[str, str]  # everything that the content depends on

    def read(self) -> bytes | None:
        """The content; `None`: there is none that can be used."""
        try:
            path = self._path()
            header, _, content = read_file(path, _MOST_BYTES).partition(b"\n")
            known = parse_json(header)
        except (FileNotFoundError, ConfigError):
            return None
        except (OSError, ValueError) as error:
            reason = str(error)
        else:
            if known == self._header(content):
                return content
            reason = "it is damaged, or of another machine"
        logger.warning("%s cannot be used, and is built again: %s", self._path(), reason)
        return None

    def write(self, content: bytes) -> None:
        """Keep the content, if the cache can be written; a warning says so if not."""
        try:
            path = self._path()
            with storage_errors("write", path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
            header = json.dumps(self._header(content)).encode()
            write_chunks(path, [header, b"\n", content])
        except (ConfigError, StorageError) as error:
            logger.warning(
                "what TensorRT has built is not kept, and is built again next time: %s Set %s "
                "to a folder that can be written",
                error,
                CACHE,
            )

    def _path(self) -> Path:
        exact = hashlib.sha256(json.dumps(sorted(self.key.items())).encode()).hexdigest()
        return cache_folder() / "tensorrt" / f"{self.kind}-{exact[:_NAME]}.bin"

    def _header(self, content: bytes) -> dict[str, object]:
        sha256 = hashlib.sha256(content).hexdigest()
        return {"kind": self.kind, "key": dict(self.key), "sha256": sha256}
