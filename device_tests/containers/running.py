"""Runs images with crun as `docker run --read-only --cap-drop ALL --network none` would."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from device_tests.containers.images import NATIVE, Image

ISOLATION = (
    "crun: all namespaces, read-only root, no capabilities, no network, user of the image, "
    "memory limit by control groups"
)
EMULATION = "qemu-user as a Cortex-A76; of /sys only the control groups"
MEMORY_BYTES = 1 << 30
_USER = 1000
# crun refuses groups of both versions at once; without the second, it uses the first.
_CRUN = 'u=/sys/fs/cgroup/unified; ! mountpoint -q $u || umount $u; exec crun "$@"'


def _crun(*words: str) -> list[str]:
    return ["unshare", "--mount", "sh", "-c", _CRUN, "crun", *words]


class Container:
    """A container that runs; what it prints goes to a file."""

    def __init__(self, bundle: Path, name: str, log: Path) -> None:
        """Start it."""
        self._name, self._log = name, log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                _crun("run", "--bundle", str(bundle), name), stdout=output, stderr=output
            )

    def terminate(self) -> None:
        """Send SIGTERM to its first process, as `docker stop` does."""
        subprocess.run(_crun("kill", self._name, "TERM"), check=True)

    def execute(self, *words: str) -> int:
        """The exit code of a command in it."""
        return subprocess.run(
            _crun("exec", f"--user={_USER}:{_USER}", self._name, *words), capture_output=True
        ).returncode

    def exit_code(self, timeout_s: float) -> int:
        """Its exit code, when it has ended."""
        return self.process.wait(timeout_s)

    def output(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait until a condition holds.

        Raises:
            AssertionError: the container ended before, or the time is over.
        """
        until_s = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < until_s, self.output()
            time.sleep(0.2)


class Runner:
    """Runs the containers of one image."""

    def __init__(self, image: Image, root: Path, folder: Path) -> None:
        """Begin.

        Args:
            image: what is run.
            root: its files.
            folder: for bundles and logs.
        """
        self._image, self._root, self._folder = image, root, folder
        self._count = 0

    def entry(self, arguments: Sequence[str] | None) -> list[str]:
        """The command line; `None`: the image's own arguments."""
        config = self._image.config
        words = config["Cmd"] if arguments is None else arguments
        return [*config["Entrypoint"], *words]

    @contextmanager
    def started(
        self, data: Path, command: Sequence[str], *, mounts: Sequence[dict[str, Any]] = ()
    ) -> Iterator[Container]:
        """A container with `data` at /data; killed at the end if it still runs."""
        self._count += 1
        name = f"edge-train-{os.getpid()}-{self._count}"
        bundle = self._folder / name
        bundle.mkdir()
        subprocess.run(_crun("spec"), cwd=bundle, check=True)
        file = bundle / "config.json"
        specification = json.loads(file.read_text())
        self._fill(specification, data, command, mounts)
        file.write_text(json.dumps(specification))
        container = Container(bundle, name, bundle / "output")
        try:
            yield container
        finally:
            if container.process.poll() is None:
                # It may end in the same moment: then there is nothing left to kill.
                subprocess.run(_crun("kill", name, "KILL"), capture_output=True)
                container.process.wait()

    def run(self, data: Path, arguments: Sequence[str] | None, timeout_s: float) -> "Ended":
        """Run a container to its end."""
        with self.started(data, self.entry(arguments)) as container:
            return Ended(container.exit_code(timeout_s), container.output())

    def _fill(
        self,
        specification: dict[str, Any],
        data: Path,
        command: Sequence[str],
        mounts: Sequence[dict[str, Any]],
    ) -> None:
        config = self._image.config
        user, _, group = config["User"].partition(":")
        nothing: list[str] = []
        sets = ("bounding", "effective", "inheritable", "permitted", "ambient")
        specification["process"].update(
            terminal=False,
            user={"uid": int(user), "gid": int(group)},
            args=list(command),
            env=config["Env"],
            cwd=config["WorkingDir"],
            capabilities=dict.fromkeys(sets, nothing),
            noNewPrivileges=True,
        )
        specification["root"] = {"path": str(self._root), "readonly": True}
        options = ["rbind", "rw"]
        volume = {"destination": "/data", "type": "bind", "source": str(data)}
        specification["mounts"] += [{**volume, "options": options}, *mounts]
        if self._image.architecture != NATIVE:
            _emulate(specification)
        limit = {"limit": MEMORY_BYTES}
        specification["linux"].setdefault("resources", {})["memory"] = limit


def _emulate(specification: dict[str, Any]) -> None:
    """Run the container by qemu-user.

    With /sys of an x86-64 machine, onnxruntime's detection of an ARM processor crashes.
    """
    process = specification["process"]
    process["env"] = [*process["env"], "QEMU_CPU=cortex-a76"]
    for mount in specification["mounts"]:
        if mount["destination"] == "/sys":
            mount.update(type="tmpfs", source="tmpfs", options=["nosuid", "noexec", "nodev"])


class Ended:
    """How a container has ended."""

    def __init__(self, exit_code: int, output: str) -> None:
        """Keep both."""
        self.exit_code, self.output = exit_code, output

    def require(self, exit_code: int) -> str:
        """Its output.

        Raises:
            AssertionError: it ended with another exit code.
        """
        assert self.exit_code == exit_code, f"exit code {self.exit_code}\n{self.output}"
        return self.output


def give_to_user(folder: Path) -> None:
    """Make the user of the images the owner of everything in a folder."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, _USER, _USER, follow_symlinks=False)
