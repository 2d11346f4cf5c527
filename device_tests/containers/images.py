"""Builds images with buildah, on bases that debootstrap makes of Debian's packages."""

import json
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_tests.debian import make_root, pip_settings
from device_tests.facts import ROOT

ISOLATION = "buildah bud --isolation chroot --storage-driver vfs"
NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


@dataclass(frozen=True, slots=True)
class Image:
    """A built image."""

    name: str
    architecture: str
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
        make_root(root, suite, architecture, log=self.folder / "debootstrap.log")
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
        return Image(tag, architecture, known["Docker"]["config"], _bytes_of(sizes[0]["size"]))

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
        settings = pip_settings()
        file = self.folder / "pip.conf"
        file.write_text(settings.text)
        mounts = [f"--volume={folder}:{folder}:ro" for folder in settings.folders]
        return [f"--secret=id=pip,src={file}", *mounts]


def _bytes_of(text: str) -> int:
    """Read buildah's "187 MB"."""
    number, unit = text.split()
    return round(float(number) * {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[unit.upper()])
