"""Builds images with buildah, on bases that debootstrap makes of Debian's packages."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ISOLATION = "buildah bud --isolation chroot --storage-driver vfs"
_PIP_OPTIONS = ("index-url", "extra-index-url", "find-links", "trusted-host")
_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True)
class Image:
    """A built image."""

    name: str
    config: dict[str, Any]  # as of `docker inspect`: User, Env, Cmd, ...
    size_bytes: int


class Store:
    """Images and containers of buildah in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        """Begin; `folder` is created, and what it has is used again."""
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)

    def buildah(self, *words: str) -> str:
        """The output of a command; its messages go to buildah.log.

        Raises:
            SystemExit: it failed, with the end of its messages.
        """
        places = [f"--root={self.folder}/storage", f"--runroot={self.folder}/run"]
        log = self.folder / "buildah.log"
        with log.open("a") as messages:
            begin = messages.tell()
            done = subprocess.run(
                ["buildah", "--storage-driver=vfs", *places, *words],
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
            )
        if done.returncode:
            said = (done.stdout + log.read_text()[begin:]).splitlines()[-30:]
            raise SystemExit("\n".join([*said, f"failed: buildah {' '.join(words)}"]))
        return done.stdout

    def base(self, suite: str, architecture: str) -> str:
        """The name of an image of Debian's smallest system, made if it is not here."""
        name = f"localhost/edge-train-base:{suite}-{architecture}"
        if name in self.buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
            return name
        root = self.folder / f"{suite}-{architecture}"
        shutil.rmtree(root, ignore_errors=True)
        with (self.folder / "debootstrap.log").open("w") as log:
            # With a foreign architecture, the kernel runs the second stage by qemu.
            subprocess.run(
                ["debootstrap", "--variant=minbase", f"--arch={architecture}", suite, root],
                check=True,
                stdout=log,
            )
        _trust_what_we_trust(root)
        container = self.buildah("from", f"--arch={architecture}", "scratch").strip()
        self.buildah("add", "--quiet", container, str(root), "/")
        self.buildah("config", f"--arch={architecture}", container)
        self.buildah("commit", "--quiet", "--rm", container, name)
        shutil.rmtree(root)
        return name

    def build(
        self,
        dockerfile: Path,
        name: str,
        *,
        architecture: str,
        arguments: Mapping[str, str],
        target: str | None = None,
    ) -> Image:
        """Build an image from this checkout."""
        options = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        if target:
            options.append(f"--target={target}")
        tag = f"localhost/{name}:{architecture}"
        self.buildah(
            "bud",
            "--isolation=chroot",
            "--format=docker",
            "--pull=never",
            f"--arch={architecture}",
            f"--file={dockerfile}",
            f"--tag={tag}",
            *options,
            *self._pip_options(),
            str(ROOT),
        )
        known = json.loads(self.buildah("inspect", "--type=image", tag))
        sizes = json.loads(self.buildah("images", "--json", tag))
        return Image(tag, known["Docker"]["config"], _bytes_of(sizes[0]["size"]))

    @contextmanager
    def mounted(self, image: Image) -> Iterator[Path]:
        """The files of an image, as the root of a container."""
        container = self.buildah("from", "--pull=never", image.name).strip()
        try:
            yield Path(self.buildah("mount", container).strip())
        finally:
            self.buildah("rm", container)

    def _pip_options(self) -> list[str]:
        """Where pip of this machine finds packages, for the build."""
        lines = _pip_settings()
        if not lines:
            return []
        file = self.folder / "pip.conf"
        values = [f"{key} = {value}" for key, value in lines.items()]
        file.write_text("\n".join(["[global]", *values, f"cert = /{_CERTIFICATES}.builder\n"]))
        words = " ".join(lines.values()).replace("file://", "").split()
        # An index in a folder may link to files beside it.
        folders = {"/".join(word.split("/")[:3]) for word in words if Path(word).is_dir()}
        mounts = [f"--volume={folder}:{folder}:ro" for folder in sorted(folders)]
        return [f"--secret=id=pip,src={file}", *mounts]


def _trust_what_we_trust(root: Path) -> None:
    """Give a root the certificates that this machine believes, beside its own."""
    copy = root / f"{_CERTIFICATES}.builder"
    copy.parent.mkdir(parents=True, exist_ok=True)
    ours = os.environ.get("PIP_CERT") or f"/{_CERTIFICATES}"
    if Path(ours).is_file():
        shutil.copyfile(ours, copy)


def _pip_settings() -> dict[str, str]:
    command = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    settings: dict[str, str] = {}
    for line in said.splitlines():
        key, _, value = line.partition("=")
        option = key.rpartition(".")[2]
        if option in _PIP_OPTIONS:
            settings[option] = value.strip("'\"").replace("\\n", " ")
    return settings


def _bytes_of(text: str) -> int:
    """Read buildah's "187 MB"."""
    number, unit = text.split()
    return round(float(number) * {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[unit.upper()])


def versions(commands: Sequence[str]) -> dict[str, str]:
    """The first line of `COMMAND --version`."""
    return {
        command: subprocess.run(
            [command, "--version"], capture_output=True, text=True, check=True
        ).stdout.splitlines()[0]
        for command in commands
    }
