"""Roots of Debian's packages, and how pip finds in them what it finds on this machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_OPTIONS = ("index-url", "extra-index-url", "find-links", "trusted-host")
_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
_OURS = f"{_CERTIFICATES}.builder"  # beside those of the root


@dataclass(frozen=True, slots=True)
class PipSettings:
    """Where pip of this machine finds packages, for a root of `make_root`."""

    text: str  # of a pip.conf
    folders: tuple[Path, ...]  # that it names: the root has to have them at the same places


def make_root(
    root: Path, suite: str, architecture: str, *, log: Path, include: Sequence[str] = ()
) -> None:
    """Make Debian's smallest system, which trusts what this machine trusts.

    Args:
        root: a folder, replaced if it exists; it is complete or absent.
        suite: such as `trixie`.
        architecture: such as `arm64`; the kernel has to run its programs.
        log: what debootstrap says.
        include: packages that it has besides.

    Raises:
        SystemExit: debootstrap failed, with the end of the log.
    """
    building = root.with_name(f"{root.name}.part")
    shutil.rmtree(root, ignore_errors=True)
    shutil.rmtree(building, ignore_errors=True)
    options = ["--variant=minbase", f"--arch={architecture}"]
    if include:
        options.append(f"--include={','.join(include)}")
    with log.open("w") as output:
        done = subprocess.run(
            ["debootstrap", *options, suite, building], stdout=output, stderr=output
        )
    if done.returncode:
        end = "\n".join(log.read_text().splitlines()[-30:])
        raise SystemExit(f"{end}\ndebootstrap failed for {suite}, {architecture}: see {log}")
    ours = _our_certificates()
    if ours.is_file():
        copy = building / _OURS
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ours, copy)
    building.rename(root)


def pip_settings() -> PipSettings:
    """Those of this machine, for a root."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    certificates = f"/{_OURS}" if _our_certificates().is_file() else None
    return read_pip_settings(said, certificates=certificates)


def read_pip_settings(said: str, *, certificates: str | None) -> PipSettings:
    """Read the output of `pip config list`.

    Args:
        said: the output.
        certificates: the file that pip has to trust in the root.
    """
    options: dict[str, str] = {}
    for line in said.splitlines():
        key, _, value = line.partition("=")
        option = key.rpartition(".")[2]
        if option in _OPTIONS:
            options[option] = value.strip("'\"").replace("\\n", " ")
    words = " ".join(options.values()).replace("file://", "").split()
    if certificates is not None:
        options["cert"] = certificates
    lines = ["[global]", *(f"{key} = {value}" for key, value in options.items())]
    # An index in a folder may link to files beside it.
    folders = {Path("/".join(word.split("/")[:3])) for word in words if Path(word).is_dir()}
    return PipSettings("\n".join(lines) + "\n", tuple(sorted(folders)))


def _our_certificates() -> Path:
    return Path(os.environ.get("PIP_CERT") or f"/{_CERTIFICATES}")
