"""Installs and trains on aarch64, run by qemu, compares with x86-64, and writes JSON."""

import argparse
import json
import platform
import shutil
from pathlib import Path

from device_tests.aarch64.checks import BOARDS, Checks, requirement
from device_tests.aarch64.machine import ISOLATION, emulated_machine, this_machine
from device_tests.aarch64.swiftshader import train_a_step
from device_tests.debian import make_root
from device_tests.facts import ROOT, Facts, circumstances, timed, versions
from device_tests.noise import write_pictures

SUITE, ARCHITECTURE = "trixie", "arm64"  # Python 3.13
_PACKAGES = ("libvulkan1", "python3-venv")
_PICTURES = 128  # two batches of the package inside edge-train
_PROCESSOR = "cortex-a76"
_EMULATED = {
    "by": "qemu-user: every program of the root, its instructions and system calls",
    "processors": BOARDS,
    "trained_on": _PROCESSOR,
    "not": "the kernel, memory, disk and clock are those of this machine; no /sys, no sensors",
}
_NOT_RUN = {
    "a board": "there is none here: times, energy, heat, power modes and sensors are unknown",
    "kernels for newer processors": "without /sys, onnxruntime knows none of the processor's "
    "features, and takes its kernels for every ARM processor",
}


def main() -> None:
    """Make the root if it is not here, and run the checks until one fails.

    An entry of the file stays as it is until it is checked again.
    """
    parser = argparse.ArgumentParser(prog="device_tests.aarch64", description=__doc__)
    parser.add_argument("wheel", type=Path, help="of edge-train")
    parser.add_argument("--folder", type=Path, required=True, help="keeps the root")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--webgpu", action="store_true", help="only a step on a GPU in software: the slowest"
    )
    args = parser.parse_args()
    if platform.machine() != "x86_64":
        raise SystemExit("needs an x86-64 machine, to compare with. On ARM: make test")
    results = json.loads(args.output.read_text()) if args.output.exists() else {}
    check = webgpu if args.webgpu else training
    before = {
        **circumstances("device_tests", "edge_runtime", "export"),
        "versions": versions(["debootstrap", "qemu-aarch64-static"]),
        "isolation": ISOLATION,
        "emulated": _EMULATED,
    }
    place = Place(args.folder.absolute(), args.wheel)
    found = timed(lambda: check(place))
    results[check.__name__] = {**before, "root": place.facts, **found}
    args.output.write_text(json.dumps(results, indent=1) + "\n")
    print(f"{check.__name__}: {found['took_s']} s, see {args.output}")


class Place:
    """A root, and a new folder for what is done in it."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        """Make them.

        Args:
            folder: keeps the root and what the last call did.
            wheel: of edge-train; it is copied.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.root, self.work = folder / f"{SUITE}-{ARCHITECTURE}", folder / "work"
        self.facts: Facts = {"debian": SUITE, "was_cached": self.root.exists()}
        if not self.root.exists():
            print(f"{self.root}: Debian for {ARCHITECTURE}, ten minutes and more", flush=True)
            log = folder / "debootstrap.log"
            self.facts |= timed(lambda: self._make_root(log))
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        self.wheel = Path(shutil.copy(wheel, self.work))
        self.arm = emulated_machine(self.root, self.work, processor=_PROCESSOR)

    def _make_root(self, log: Path) -> Facts:
        make_root(self.root, SUITE, ARCHITECTURE, log=log, include=_PACKAGES)
        return {}


def training(place: Place) -> Facts:
    """The facts of all checks."""
    shutil.copytree(ROOT / "edge_runtime/selftest/package", place.work / "package")
    write_pictures(place.work / "pictures", _PICTURES)
    found: Facts = {}
    for check in Checks(place.arm, this_machine(place.work), place.wheel).all():
        found[check.__name__] = timed(check)
        print(f"{check.__name__}: {found[check.__name__]['took_s']} s", flush=True)
    return {"checks": found, "not_run": _NOT_RUN}


def webgpu(place: Place) -> Facts:
    """What `doctor` finds with Chromium's Vulkan driver in software."""
    wanted = requirement(place.wheel, "webgpu", "report")
    return train_a_step(place.arm, place.root, wanted)


if __name__ == "__main__":
    main()
