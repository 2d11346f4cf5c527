"""A headless Chromium, driven through its debugging pipe; no library in between."""

import fcntl
import json
import os
import subprocess
import tempfile
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

_LONGEST_S = 120.0  # for one answer; a busy machine draws slowly


class Browser:
    """One page of a running Chromium. Use `open_browser`."""

    def __init__(self, write: int, read: int) -> None:
        """Take the two ends of its pipes."""
        self._write, self._read = write, read
        self._answers: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._number = 0
        self._session: str | None = None
        self.complaints: list[str] = []  # errors and warnings of the console, exceptions
        self.requests: list[str] = []  # requested addresses
        threading.Thread(target=self._listen, daemon=True).start()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{part}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method; returns its result.

        Raises:
            RuntimeError: it refuses, or does not answer.
        """
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        try:
            answer = self._answers.get(timeout=_LONGEST_S)
        except Empty:
            raise RuntimeError(f"no answer to {method}") from None
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def show(self, path: Path, *, width_px: int, height_px: int = 900, dark: bool = False,
             ) -> None:  # fmt: skip
        """Open a file as a window of that size sees it, and wait until it is drawn."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width_px,
            height=height_px,
            deviceScaleFactor=1,
            mobile=width_px < 600,
        )
        self.prefer("dark" if dark else "light")
        self.complaints.clear()
        self.requests.clear()
        self.call("Page.navigate", url=path.absolute().as_uri())
        self.value(
            "new Promise(done => document.readyState === 'complete' ? done(1) : "
            "addEventListener('load', () => done(1)))"
        )
        self.value(
            "new Promise(done => requestAnimationFrame(() => setTimeout(done, 300, 1)))"
        )

    def prefer(self, colours: str, *, media: str = "screen") -> None:
        """Light or dark, screen or print."""
        features = [{"name": "prefers-color-scheme", "value": colours}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def value(self, expression: str) -> Any:
        """The value of some JavaScript; a promise is awaited.

        Raises:
            RuntimeError: it throws.
        """
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def picture(self, path: Path, *, height_px: int | None = None) -> None:
        """Save a picture of the page: of its first pixels, or of all of it."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        height_px = round(size["height"]) if height_px is None else height_px
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height_px, "scale": 1}
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(b64decode(answer["data"]))

    def _listen(self) -> None:
        rest = b""
        while block := os.read(self._read, 1 << 16):
            *messages, rest = (rest + block).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers.put(message)
                else:
                    self._hear(message["method"], message["params"])

    def _hear(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in (
            "error",
            "warning",
        ):
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in (
            "error",
            "warning",
        ):
            self.complaints.append(str(parameters["args"]))


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium, and end it.

    Raises:
        FileNotFoundError: it is not installed.
    """
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()

    def as_three_and_four() -> None:  # what --remote-debugging-pipe reads and writes
        # Move them first: they may be 4 and 3 themselves.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, from_write)]
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            "chromium", "--headless=new", "--no-sandbox", "--disable-gpu",
            "--hide-scrollbars", "--no-first-run", "--disable-background-networking",
            f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        process = subprocess.Popen(
            command,
            preexec_fn=as_three_and_four,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        try:
            yield Browser(to_write, from_read)
        finally:
            process.kill()
            process.wait()
            os.close(to_write)
