"""Builds the images, checks them, and writes what was found as JSON.

An entry of the file stays as it is until its image is checked again: images of another
architecture can be added on another day.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from device_tests.containers import images, running
from device_tests.containers.checks import TrainingChecks, exports
from device_tests.containers.images import Image, Store
from device_tests.facts import ROOT, Facts, circumstances, timed, versions

DOCKER = ROOT / "docker"
SUITE = "trixie"  # of Dockerfile.cpu, Python 3.13
EXPORT_SUITE = "bookworm"  # of Dockerfile.export, Python 3.11
_EPOCHS, _LONGEST_S = 40, 300.0  # three steps each
_EMULATED_EPOCHS, _EMULATED_LONGEST_S = 3, 3000.0
_FETCH = "git clone"


class Images:
    """Builds and checks one image at a time."""

    def __init__(self, folder: Path, architecture: str) -> None:
        """Begin; `folder` keeps bases, packages and logs."""
        self._store, self._folder, self._architecture = Store(folder), folder, architecture

    def cpu(self) -> Facts:
        """Dockerfile.cpu: all checks."""
        base = self._store.base(SUITE, self._architecture)
        with self._built("cpu", {"BASE": base}) as (image, root):
            is_native = self._architecture == images.NATIVE
            checks = TrainingChecks(
                image,
                root,
                self._folder / f"cpu-{self._architecture}",
                epochs=_EPOCHS if is_native else _EMULATED_EPOCHS,
                longest_s=_LONGEST_S if is_native else _EMULATED_LONGEST_S,
            )
            facts = {check.__name__: timed(check) for check in checks.all()}
            return {"base": base, "size_bytes": image.size_bytes, "checks": facts}

    def export(self) -> Facts:
        """Dockerfile.export: it exports a package, which it can read."""
        base = self._store.base(EXPORT_SUITE, self._architecture)
        with self._built("export", {"BASE": base}) as (image, root):
            facts = timed(lambda: exports(image, root, self._folder / "export", _LONGEST_S))
            return {"base": base, "size_bytes": image.size_bytes, "checks": {"export": facts}}

    def jetson(self) -> Facts:
        """Dockerfile.jetson, as far as it needs neither NVIDIA's base nor sources.

        Debian takes the place of the base, and the runtime for processors that of the GPU's.
        The stage that compiles ONNX Runtime ends before it fetches the sources.
        """
        base = self._store.base(EXPORT_SUITE, self._architecture)
        arguments = {"BASE_IMAGE": base, "ORT": "onnxruntime", "ORT_INDEX": ""}
        with self._built("jetson", arguments) as (image, root):
            folder = self._folder / "jetson"
            checks = TrainingChecks(image, root, folder, epochs=1, longest_s=_LONGEST_S)
            facts = {"image": timed(checks.image), "doctor": timed(checks.doctor)}
            size_bytes = image.size_bytes
        before, found, _ = (DOCKER / "Dockerfile.jetson").read_text().partition(_FETCH)
        assert found, f"Dockerfile.jetson has no {_FETCH!r}"
        cut = self._folder / "Dockerfile.before-fetching"
        cut.write_text(before[: before.rindex("\nRUN ")] + "\n")
        tools = self._store.build(
            cut,
            "edge-train-tools",
            architecture=self._architecture,
            arguments={"BASE_IMAGE": base, "RUNTIME": "training"},
            target="training-wheel",
        )
        self._store.buildah("rmi", tools.name)
        return {
            "base": base,
            "size_bytes": size_bytes,
            "checks": facts,
            "not_run": [
                "NVIDIA's bases",
                "onnxruntime-gpu",
                f"stage training-wheel from {_FETCH!r} on",
            ],
        }

    @contextmanager
    def _built(self, name: str, arguments: dict[str, str]) -> Iterator[tuple[Image, Path]]:
        image = self._store.build(
            DOCKER / f"Dockerfile.{name}",
            f"edge-train-{name}",
            architecture=self._architecture,
            arguments=arguments,
        )
        try:
            with self._store.mounted(image) as root:
                yield image, root
        finally:
            self._store.buildah("rmi", image.name)


def lint() -> Facts:
    """What hadolint says about the Dockerfiles, if it is installed."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    hadolint = shutil.which("hadolint", path=places)
    if hadolint is None:
        return {"hadolint": None}
    files = sorted(str(path) for path in DOCKER.glob("Dockerfile.*"))
    config = ["--config", str(DOCKER / "hadolint.yaml")]
    done = subprocess.run([hadolint, *config, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return {"hadolint": versions([hadolint])[hadolint], "findings": 0}


def built_of() -> Facts:
    """When, where and of what an image was built."""
    return {
        **circumstances("docker", "edge_runtime", "export"),
        "versions": versions(["buildah", "crun"]),
        "build_isolation": images.ISOLATION,
        "run_isolation": running.ISOLATION,
    }


def main() -> None:
    """Check the images that are asked for, until one fails."""
    parser = argparse.ArgumentParser(prog="device_tests.containers", description=__doc__)
    parser.add_argument("architecture", choices=("amd64", "arm64"))
    parser.add_argument("--images", nargs="+", default=["cpu", "export", "jetson"])
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/edge-train-containers"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    results = json.loads(args.output.read_text()) if args.output.exists() else {}
    results["lint"] = {**lint(), "commit": built_of()["commit"]}
    builder = Images(args.work, args.architecture)
    for name in args.images:
        print(f"{name} for {args.architecture}", flush=True)
        before = built_of()
        if args.architecture != images.NATIVE:
            before["emulation"] = running.EMULATION
        found = timed(getattr(builder, name))
        results[f"{name}-{args.architecture}"] = {**before, **found}
        args.output.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name} for {args.architecture}: passed in {found['took_s']} s", flush=True)


if __name__ == "__main__":
    main()
