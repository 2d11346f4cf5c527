"""Files of the cache that hold what TensorRT has built, each with what it was built for.

A file is one line of JSON, then the content that the line describes. What cannot be read, is
cut short, damaged, or was built for something else counts as missing: it is built again, and
its file replaced as a whole. So processes may share the cache. What cannot be written is kept
in this process until it ends.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import ConfigError, StoppedError, StorageError
from edge_runtime.reading import parse_json, read_file
from edge_runtime.storage import (
    CACHE,
    cache_folder,
    exclusive_lock,
    storage_errors,
    write_chunks,
)

_MOST_BYTES = 4 << 30  # an engine without weights has some megabytes
_NAME = 16  # digits of the key's hash in a file name
_LOOK_S = 0.2  # between two looks at a lock

logger = logging.getLogger(__name__)

_not_written: dict[str, bytes] = {}  # by file name


@dataclass(frozen=True, slots=True)
class CachedFile:
    """What is kept for one key."""

    kind: str  # "engine" or "timing": the first word of the file's name
    key: Mapping[str, str]  # everything that the content depends on

    def read(self) -> bytes | None:
        """The content; `None`: there is none that can be used."""
        if (content := _not_written.get(self._name())) is not None:
            return content
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
            _not_written[self._name()] = content
            logger.warning(
                "what TensorRT has built is kept in this process alone, and each other one "
                "builds again: %s Set %s to a folder that can be written",
                error,
                CACHE,
            )

    @contextmanager
    def locked(
        self, report: Callable[[str], None], stop: Callable[[], bool]
    ) -> Iterator[None]:
        """Keep other processes from building the same; waits for one that does.

        Args:
            report: called with a line of text if it waits.
            stop: called meanwhile; `True` ends the wait.

        Raises:
            StoppedError: `stop` returned `True`.
        """
        with ExitStack() as stack:
            if not self._lock(stack):
                report("another process builds the same TensorRT engine: waiting for it")
                while not self._lock(stack):
                    if stop():
                        raise StoppedError(
                            "stopped while another process built the same TensorRT engine."
                        )
                    time.sleep(_LOOK_S)
            yield

    def _lock(self, stack: ExitStack) -> bool:
        """Lock until the end of `stack`; `False`: another process has the lock."""
        try:
            stack.enter_context(exclusive_lock(self._path().with_suffix(".lock")))
        except BlockingIOError:
            return False
        except (ConfigError, OSError, StorageError):
            pass  # nothing is shared where nothing can be written or locked
        return True

    def _path(self) -> Path:
        return cache_folder() / "tensorrt" / self._name()

    def _name(self) -> str:
        exact = hashlib.sha256(json.dumps(sorted(self.key.items())).encode()).hexdigest()
        return f"{self.kind}-{exact[:_NAME]}.bin"

    def _header(self, content: bytes) -> dict[str, object]:
        sha256 = hashlib.sha256(content).hexdigest()
        return {"kind": self.kind, "key": dict(self.key), "sha256": sha256}
