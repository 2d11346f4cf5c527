"""Everything that gpu_step.py needs on a machine that reaches no package registry.

A kit is a folder: `wheels/` for both runtimes, `wheels-webgpu/` and `wheels-cuda/` for one
of them each, `lib/` with the Vulkan loader of the machine that made it, `packages/`, and
`kit.json`, which says what could not be made and why. It travels whole or in pieces.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from parts.common import MIB, PATHS, edge_train_command, say, worker_environment

SHARED_WHEELS = (
    "attrs", "cattrs", "flatbuffers", "numpy", "nvidia-ml-py", "packaging", "protobuf",
    "psutil", "safetensors", "typing-extensions",
)  # fmt: skip
WHEELS = {  # device -> the runtime for it
    "webgpu": ("onnxruntime", "onnxruntime-ep-webgpu"),
    "cuda": ("onnxruntime-gpu",),
}
GLIBC = (39, 35, 34, 31, 28, 27, 24, 17)  # minor versions that wheels are named after
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in GLIBC), "manylinux2014_x86_64")
VULKAN_LOADER = Path("/usr/lib/x86_64-linux-gnu/libvulkan.so.1")
KIT, PIECES = "kit.json", "pieces.json"


def collect_wheels(folder: Path, python_version: str) -> None:
    """Download the wheels for x86-64 and a version of Python."""
    for part, names in {"": SHARED_WHEELS, **WHEELS}.items():
        target = folder / ("wheels" + (f"-{part}" if part else ""))
        say(f"downloading {', '.join(names)}")
        words = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", str(target)]
        words += ["--python-version", python_version, "--implementation", "cp"]
        words += [word for platform in PLATFORMS for word in ("--platform", platform)]
        _pip(*words, *names)
    if VULKAN_LOADER.exists():
        (folder / "lib").mkdir(exist_ok=True)
        shutil.copy(VULKAN_LOADER.resolve(), folder / "lib" / VULKAN_LOADER.name)


def install(folder: Path, device: str) -> Path:
    """Install the wheels for a device into a folder of their own, once; returns it."""
    site = folder / f"site-{device}"
    if not site.exists():
        wheels = [*folder.glob("wheels/*.whl"), *folder.glob(f"wheels-{device}/*.whl")]
        words = ("--no-index", "--no-deps", "--no-compile", "--target", str(site))
        _pip("install", "--quiet", *words, *map(str, wheels))
    return site


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"pip {words[0]} failed:\n{done.stderr[-2000:]}")


def export_packages(folder: Path, recipes: Mapping[str, Sequence[str]]) -> None:
    """Export a package per recipe (flags of `edge-train export`); note those that fail."""
    found: dict[str, dict[str, str]] = {}
    for name, flags in recipes.items():
        target = folder / "packages" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        say(f"exporting {name}: {' '.join(flags)}")
        done = subprocess.run(
            edge_train_command(["export", *flags, "-o", str(target)]),
            env=worker_environment(),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            words = " ".join(done.stderr.split()[-60:])  # it says what was wrong at its end
            found[name] = {"reason": f"not exported: {words}"}
            say(found[name]["reason"])
        else:
            found[name] = {"path": str(target.relative_to(folder))}
    (folder / KIT).write_text(json.dumps({"packages": found}, indent=1) + "\n")


def packages_of(folder: Path) -> dict[str, dict[str, str]]:
    """By name: its path, or the reason why there is none."""
    try:
        packages: dict[str, dict[str, str]] = json.loads((folder / KIT).read_text())[
            "packages"
        ]
    except FileNotFoundError as error:
        raise SystemExit(f"{folder} is no kit: it has no {KIT}. Make one: prepare") from error
    return packages


def write_pieces(folder: Path, target: Path, piece_mib: int) -> list[Path]:
    """The kit as files of at most that size; returns them, the list of all of them last."""
    target.mkdir(parents=True)
    whole = target / "kit.tar.gz"
    with tarfile.open(whole, "w:gz") as archive:
        archive.add(folder, arcname=".")
    pieces: dict[str, str] = {}
    with whole.open("rb") as file:
        while content := file.read(piece_mib * MIB):
            name = f"kit.{len(pieces):03}"
            (target / name).write_bytes(content)
            pieces[name] = hashlib.sha256(content).hexdigest()
    whole.unlink()
    (target / PIECES).write_text(json.dumps(pieces, indent=1) + "\n")
    return [*(target / name for name in pieces), target / PIECES]


def receive(source: Path, folder: Path) -> list[str]:
    """Add the pieces in `source` to a kit; unpacks it with the last one.

    Returns:
        The names of the pieces that are still missing.
    """
    store = folder / "pieces"
    store.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        shutil.copy(path, store / path.name)
    if not (store / PIECES).exists():
        return [PIECES]
    pieces: dict[str, str] = json.loads((store / PIECES).read_text())
    missing = [name for name in pieces if not (store / name).exists()]
    if missing:
        return missing
    for name, expected in pieces.items():
        if hashlib.sha256((store / name).read_bytes()).hexdigest() != expected:
            (store / name).unlink()
            raise SystemExit(f"{name} is damaged: bring it again")
    whole = folder / "kit.tar.gz"
    with whole.open("wb") as file:
        for name in pieces:
            with (store / name).open("rb") as piece:
                shutil.copyfileobj(piece, file)
    with tarfile.open(whole) as archive:
        archive.extractall(folder, filter="data")
    whole.unlink()
    shutil.rmtree(store)
    return []


def worker_variables(folder: Path, device: str) -> dict[str, str]:
    """Variables for a process that uses the installed wheels, and PyTorch's CUDA libraries."""
    libraries = [folder / "lib"]
    nvidia = find_spec("nvidia")
    for place in (nvidia.submodule_search_locations or []) if nvidia else []:
        libraries += sorted(Path(place).glob("*/lib"))
    before = os.environ.get("LD_LIBRARY_PATH")
    return {
        "PYTHONPATH": os.pathsep.join([PATHS, str(install(folder, device))]),
        "LD_LIBRARY_PATH": os.pathsep.join(
            [*map(str, libraries), *([before] if before else [])]
        ),
    }
