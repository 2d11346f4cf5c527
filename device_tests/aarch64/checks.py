"""What has to hold on aarch64; a check returns facts, and fails by an assertion."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from device_tests.aarch64.comparison import losses, weight_differences, wheel_tags
from device_tests.aarch64.machine import LONGEST_S, Machine
from device_tests.facts import Facts

BOARDS = {  # processors of qemu, and boards that have them
    "cortex-a53": "Raspberry Pi 3",
    "cortex-a72": "Raspberry Pi 4",
    "cortex-a76": "Raspberry Pi 5",
}
TOLERANCE = 1e-4  # of weights and losses, against x86-64
_FEATURE_TOLERANCE = 1e-3  # of the largest feature
_STEPS, _BATCHES, _KILLED_AFTER = 10, 2, 3
_COMPILED = ("numpy", "onnxruntime", "opencv-python-headless", "pillow", "psutil")


class Checks:
    """Of a wheel of edge-train, with the package inside it."""

    def __init__(self, arm: Machine, x86: Machine, wheel: Path) -> None:
        """Begin.

        Args:
            arm: the machine that is checked.
            x86: one with the same folder, which has `package` and two batches of `pictures`.
            wheel: in that folder.
        """
        self._arm, self._x86, self._work, self._wheel = arm, x86, arm.work, wheel

    def install(self) -> Facts:
        """All dependencies have wheels for aarch64: nothing is compiled."""
        self._arm.install(requirement(self._wheel, "ort", "report"))
        tags = wheel_tags(self._arm.site_packages)
        for name in _COMPILED:
            assert tags[name].endswith("aarch64"), tags
        return {"wheels": tags}

    def doctor(self) -> Facts:
        """Engine and pictures work; no wheel is for newer processors than these."""
        for processor in BOARDS:
            for part in ("pictures", "ort"):
                # What doctor itself starts, each in a process, without the rest of doctor.
                self._arm.edge_train("doctor", "--try", part, QEMU_CPU=processor)
        found = json.loads(self._arm.edge_train("doctor", "--json"))
        assert found["machine"]["machine"] == "aarch64"
        assert found["pictures"]["works"], found
        works = [engine["part"] for engine in found["engines"] if engine["works"]]
        assert works == ["ort"], found
        return {
            "engines": works,
            "trained_a_step_on": BOARDS,
            "versions": found["versions"],
            "python": found["machine"]["python"],
        }

    def uninterrupted(self) -> Facts:
        """A whole run, with which the others are compared."""
        self._arm.edge_train(*self._training("whole"))
        found = losses(self._work / "whole")
        assert len(found) == _STEPS
        return {"steps": _STEPS, "last_loss": found[-1]}

    def killed(self) -> Facts:
        """SIGKILL after a checkpoint; continued, the run ends with the same bytes."""
        command = self._arm.start_edge_train(*self._training("killed"))
        until_s = time.monotonic() + LONGEST_S
        while self._newest_checkpoint("killed") < _KILLED_AFTER:
            assert command.process.poll() is None, command.said()
            assert time.monotonic() < until_s, command.said()
            time.sleep(0.01)
        command.process.kill()
        command.require(-signal.SIGKILL)
        killed_after = self._newest_checkpoint("killed")
        assert killed_after < _STEPS, "it ended before it was killed"
        self._arm.edge_train(*self._training("killed"), "--resume")
        assert self._state("killed").read_bytes() == self._state("whole").read_bytes()
        assert losses(self._work / "killed") == losses(self._work / "whole")
        return {"killed_after_checkpoint": killed_after, "state": "the same bytes"}

    def like_x86(self) -> Facts:
        """The same run on x86-64 ends with the same weights, but for rounding."""
        self._x86.install(requirement(self._wheel, "ort", "report"))
        self._x86.edge_train(*self._training("whole-x86"))
        facts = weight_differences(
            load_file(self._state("whole")), load_file(self._state("whole-x86"))
        )
        ours, theirs = (losses(self._work / run) for run in ("whole", "whole-x86"))
        largest = float(np.abs(np.subtract(ours, theirs)).max())
        assert facts["largest_difference"] < TOLERANCE, facts
        assert largest < TOLERANCE, (ours, theirs)
        run = json.loads((self._work / "whole-x86/run.json").read_text())
        return {
            **facts,
            "largest_difference_of_losses": largest,
            "tolerance": TOLERANCE,
            "versions": {**run["versions"], "python": run["machine"]["python"]},
        }

    def embedding(self) -> Facts:
        """Features of the trained encoder; x86-64 reads the run and finds the same."""
        features = []
        for machine in (self._arm, self._x86):
            file = f"features-{machine.name}.npz"
            places = ("--package", "package", "-o", file)  # elsewhere than the run says
            machine.edge_train("embed", "whole", "pictures", *places)
            with np.load(self._work / file) as arrays:
                features.append(arrays["features"])
        ours, theirs = features
        assert ours.shape == theirs.shape
        largest = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        assert largest < _FEATURE_TOLERANCE
        return {"features": list(ours.shape), "largest_relative_difference": largest}

    def report(self) -> Facts:
        """A page and its numbers."""
        arguments = ("report", "whole", "killed", "--json", "-o", "report.html")
        runs = json.loads(self._arm.edge_train(*arguments))["runs"]
        assert [run["totals"]["steps"] for run in runs] == [_STEPS, _STEPS], runs
        page = (self._work / "report.html").read_text()
        assert page.rstrip().endswith("</html>")
        return {"page_bytes": len(page.encode())}

    def all(self) -> list[Callable[[], Facts]]:
        """Every check, in its order: later ones compare with what earlier ones left."""
        return [
            self.install,
            self.doctor,
            self.uninterrupted,
            self.killed,
            self.like_x86,
            self.embedding,
            self.report,
        ]

    def _training(self, run: str) -> list[str]:
        often = ["--checkpoint-every", "1ms"]  # after each step
        same = ["--engine", "ort", "--keep-ratio", "0.75", "--seed", "1", "--threads", "2"]
        epochs = ["--epochs", str(_STEPS // _BATCHES)]
        return ["run", "package", "pictures", "-o", run, *same, *epochs, *often]

    def _newest_checkpoint(self, run: str) -> int:
        folder = self._work / run / "checkpoints"
        return max((int(path.name) for path in folder.glob("[0-9]*")), default=0)

    def _state(self, run: str) -> Path:
        return self._work / run / "checkpoints" / str(_STEPS) / "state.safetensors"


def requirement(wheel: Path, *extras: str) -> str:
    """A wheel in the machines' folder, for pip."""
    return f"./{wheel.name}[{','.join(extras)}]"
