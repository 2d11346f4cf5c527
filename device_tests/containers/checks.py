"""What has to hold for a running image; a check returns facts, and fails by an assertion."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from device_tests.containers.images import Image
from device_tests.containers.running import (
    MEMORY_BYTES,
    Ended,
    Runner,
    give_to_user,
)
from device_tests.facts import Facts
from device_tests.noise import write_pictures

_PICTURES = 192  # three batches of the package in the image
_NO_PACKAGE = 3  # exit codes, docs/commands.md
_STOPPED = 130
_HEALTHY = ("healthy", "/data/run")


class TrainingChecks:
    """Of an image that trains: its own command, without arguments except `--epochs`."""

    def __init__(
        self, image: Image, root: Path, folder: Path, *, epochs: int, longest_s: float
    ) -> None:
        """Begin.

        Args:
            image: what is run.
            root: its files.
            folder: for data and logs; created.
            epochs: of three steps each.
            longest_s: that a container may take.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder, self._root, self._config = folder, root, image.config
        self._runner = Runner(image, root, folder)
        self._arguments = [*image.config["Cmd"], "--epochs", str(epochs)]
        self._steps, self._longest_s = 3 * epochs, longest_s

    def image(self) -> Facts:
        """Its declarations."""
        config = self._config
        assert config["User"] == "1000:1000"
        assert list(config["Volumes"]) == ["/data"]
        assert config["Entrypoint"] == ["tini", "--", "edge-train"]
        assert config["Healthcheck"]["Test"] == ["CMD", *_HEALTHY]
        return {"labels": config["Labels"]}

    def doctor(self) -> Facts:
        """It trains a step, as a user without a name, on a root that nobody can write."""
        facts = json.loads(self._run("doctor", ["doctor", "--json"]).require(0))
        works = [engine["part"] for engine in facts["engines"] if engine["works"]]
        assert facts["pictures"]["works"], facts
        assert works, facts
        return {"machine": facts["machine"], "versions": facts["versions"], "engines": works}

    def confinement(self) -> Facts:
        """The root is read-only, the user is not root, and the limit on memory is known."""
        data = self._data("confinement")
        script = "id -u; touch /probe /tmp/probe /opt/edge-train/probe; touch /data/probe"
        with self._runner.started(data, ["sh", "-c", script]) as container:
            assert container.exit_code(self._longest_s) == 0  # the last touch
            said = container.output()
        assert said.splitlines()[0] == "1000"
        assert said.count("Read-only file system") == 3, said
        facts = json.loads(self._run("confinement", ["doctor", "--json"]).require(0))
        assert facts["machine"]["memory_bytes"] == MEMORY_BYTES, facts["machine"]
        return {"memory_bytes": MEMORY_BYTES}

    def uninterrupted(self) -> Facts:
        """A whole run, with which the others are compared."""
        output = self._run("whole", self._arguments).require(0)
        assert self._state("whole").is_file(), output
        return {"steps": self._steps}

    def interrupted(self) -> Facts:
        """SIGTERM saves a checkpoint; the same container, started again, ends the same way."""
        data = self._data("stopped")
        assert self._healthy(data) == 1  # nothing runs
        with self._runner.started(data, self._runner.entry(self._arguments)) as container:
            container.wait_for(lambda: self._steps_done(data) >= 2, self._longest_s)
            assert container.execute(*_HEALTHY) == 0
            container.terminate()
            first = Ended(container.exit_code(self._longest_s), container.output())
        first.require(_STOPPED)
        stopped_at = self._checkpoints(data)[-1]
        assert 2 <= stopped_at < self._steps, first.output
        self._run("stopped", self._arguments).require(0)
        assert self._state("stopped").read_bytes() == self._state("whole").read_bytes()
        return {
            "stopped_at_step": stopped_at,
            "exit_code": _STOPPED,
            "state": "the same bytes",
        }

    def started_again(self) -> Facts:
        """A finished run does nothing; without a package, a run is refused, not a crash."""
        before = self._records("stopped")
        self._run("stopped", self._arguments).require(0)
        assert self._records("stopped") == before
        shutil.rmtree(self._data("refused") / "package")
        assert "package" in self._run("refused", self._arguments).require(_NO_PACKAGE)
        return {"finished": 0, "without_package": _NO_PACKAGE}

    def all(self) -> list[Callable[[], Facts]]:
        """Every check, in its order: later ones compare with what earlier ones left."""
        return [
            self.image,
            self.doctor,
            self.confinement,
            self.uninterrupted,
            self.interrupted,
            self.started_again,
        ]

    def _run(self, name: str, arguments: list[str]) -> Ended:
        return self._runner.run(self._data(name), arguments, self._longest_s)

    def _data(self, name: str) -> Path:
        """A data volume with the package of the image and pictures; made if it is not here."""
        data = self._folder / name
        if not data.exists():
            (package,) = self._root.glob(
                "opt/edge-train/lib/*/*/edge_runtime/selftest/package"
            )
            shutil.copytree(package, data / "package")
            write_pictures(data / "pictures", _PICTURES)
            give_to_user(data)
        return data

    def _healthy(self, data: Path) -> int:
        with self._runner.started(data, _HEALTHY) as container:
            return container.exit_code(self._longest_s)

    def _steps_done(self, data: Path) -> int:
        records = data / "run/steps.jsonl"
        return records.read_bytes().count(b"\n") if records.exists() else 0

    def _checkpoints(self, data: Path) -> list[int]:
        return sorted(int(path.name) for path in (data / "run/checkpoints").iterdir())

    def _state(self, name: str) -> Path:
        folder = self._data(name) / "run/checkpoints" / str(self._steps)
        return folder / "state.safetensors"

    def _records(self, name: str) -> dict[str, bytes]:
        run = self._data(name) / "run"
        return {path.name: path.read_bytes() for path in run.glob("*.json*")}


def exports(image: Image, root: Path, folder: Path, longest_s: float) -> Facts:
    """The image with PyTorch exports a package, which it then reads."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    give_to_user(folder)
    runner = Runner(image, root, folder)
    sizes = ["--image-size", "16", "--patch-size", "4", "--depth", "3", "--width", "96"]
    export = ["export", "--model", "vit_tiny", *sizes, "-o", "package"]
    runner.run(folder / "data", export, longest_s).require(0)
    inspected = runner.run(folder / "data", ["inspect", "package", "--json"], longest_s)
    return {"rungs": [rung["id"] for rung in json.loads(inspected.require(0))["rungs"]]}
