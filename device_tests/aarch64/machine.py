"""Runs commands on this machine and in a root of aarch64, with the same relative paths."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from device_tests.debian import pip_settings

ISOLATION = "chroot in a mount namespace of its own, with /proc and /dev, without /sys"
LONGEST_S = 1800.0  # of one command; emulated ones are up to a hundred times slower

# The mounts end with the last process. /sys stays away: with that of an x86-64 machine,
# onnxruntime's detection of the processor ends with a crash.
_ENTER = """
set -e
root=$1 work=$2
mount --bind "$work" "$root/work"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
shift 2
while [ "$1" != -- ]; do
    mount --bind -o ro "$1" "$root$1"
    shift
done
shift
exec chroot "$root" env -C /work "$@"
"""


class Machine:
    """Runs commands in a folder; what they print goes to a file of it."""

    def __init__(
        self,
        name: str,
        work: Path,
        *,
        python: str,
        enter: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        """Begin.

        Args:
            name: of its environment for Python in `work`, too.
            work: the folder, relative to which the commands' paths are.
            python: its interpreter.
            enter: the words before a command that bring it there.
            environment: all variables of the commands.
        """
        self.name, self.work = name, work
        self._python, self._enter, self._environment = python, enter, dict(environment)
        self._count = 0

    def start(self, *words: str, **variables: str) -> "Command":
        """Start a command; its process is the command's own."""
        self._count += 1
        environment = {**self._environment, **variables}
        output = self.work / f"{self.name}-{self._count:02}"
        return Command([*self._enter, *words], environment, output)

    def run(self, *words: str, **variables: str) -> str:
        """The standard output of a command.

        Raises:
            AssertionError: it failed.
        """
        return self.start(*words, **variables).require(0)

    def install(self, requirement: str) -> None:
        """Install a requirement with pip; the first time, the environment is made."""
        if not (self.work / self.name).exists():
            self.run(self._python, "-m", "venv", self.name)
        pip = [f"{self.name}/bin/python", "-m", "pip", "--disable-pip-version-check"]
        # Compiling every module to bytecode takes an emulated machine minutes.
        self.run(*pip, "install", "--quiet", "--no-compile", requirement)

    def start_edge_train(self, *arguments: str, **variables: str) -> "Command":
        """Start edge-train."""
        return self.start(f"{self.name}/bin/edge-train", *arguments, **variables)

    def edge_train(self, *arguments: str, **variables: str) -> str:
        """The standard output of edge-train, which has to succeed."""
        return self.start_edge_train(*arguments, **variables).require(0)

    @property
    def site_packages(self) -> Path:
        """Where the environment has what is installed."""
        (folder,) = (self.work / self.name).glob("lib/python3*/site-packages")
        return folder


class Command:
    """A command that runs or has ended."""

    def __init__(
        self, words: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        """Start it.

        Args:
            words: the command line.
            environment: all of its variables.
            log: without its suffixes `.out` and `.err`.
        """
        self._output, self._errors = log.with_suffix(".out"), log.with_suffix(".err")
        with self._output.open("w") as output, self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
            )
        self._words = words

    def require(self, exit_code: int) -> str:
        """Its standard output, when it has ended.

        Raises:
            AssertionError: it took too long, or ended with another code.
        """
        try:
            ended = self.process.wait(LONGEST_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            ended = None
        assert ended == exit_code, f"{' '.join(self._words)}: {ended}\n{self.said()}"
        return self.output()

    def output(self) -> str:
        """Its standard output."""
        return self._output.read_text(errors="replace")

    def said(self) -> str:
        """All that it has printed."""
        return self.output() + self._errors.read_text(errors="replace")


def this_machine(work: Path) -> Machine:
    """This machine, with its settings of pip and a cache of its own for edge-train."""
    return Machine(
        "x86_64",
        work,
        python=sys.executable,
        enter=["env", "-C", str(work)],
        environment={**os.environ, "EDGE_TRAIN_CACHE": str(work / "x86_64-cache")},
    )


def emulated_machine(root: Path, work: Path, *, processor: str) -> Machine:
    """A root of aarch64; pip keeps its downloads in it.

    Args:
        root: of `device_tests.debian.make_root`, with Python.
        work: its /work.
        processor: one of `qemu-aarch64 -cpu help`.
    """
    settings = pip_settings()
    (work / "pip.conf").write_text(settings.text)
    folders = [str(folder) for folder in settings.folders]
    for folder in ("/work", *folders):
        (root / folder[1:]).mkdir(parents=True, exist_ok=True)
    enter = ["unshare", "--mount", "sh", "-c", _ENTER, "enter", str(root), str(work)]
    return Machine(
        "aarch64",
        work,
        python="python3",
        enter=[*enter, *folders, "--"],
        environment={
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PIP_CONFIG_FILE": "/work/pip.conf",
            "EDGE_TRAIN_CACHE": "/work/aarch64-cache",
            "QEMU_CPU": processor,
        },
    )
