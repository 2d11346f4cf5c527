"""SwiftShader of Debian's Chromium for aarch64: a Vulkan driver that needs no GPU."""

import json
import subprocess
from pathlib import Path

from device_tests.aarch64.comparison import wheel_tags
from device_tests.aarch64.machine import Machine
from device_tests.facts import Facts

PACKAGE = "chromium-common"  # the driver in it needs nothing but the C library
PLUGIN = "onnxruntime-ep-webgpu"
_FOLDER = "opt/chromium"
_DRIVER = "usr/lib/chromium/vk_swiftshader_icd.json"


def train_a_step(arm: Machine, root: Path, requirement: str) -> Facts:
    """What the trial of `doctor` on device `webgpu` finds: the loss has to be PyTorch's.

    Args:
        arm: where edge-train is installed; the plugin is added.
        root: of `arm`; the driver is added if it is not there.
        requirement: edge-train with the extra `webgpu`, for pip.

    Raises:
        AssertionError: something could not be installed, or the trial failed.
    """
    if not (root / _FOLDER / _DRIVER).exists():
        arm.run("apt-get", "update")
        arm.run("apt-get", "download", PACKAGE)
        (package,) = arm.work.glob(f"{PACKAGE}_*.deb")
        subprocess.run(["dpkg-deb", "--extract", package, root / _FOLDER], check=True)
    arm.install(requirement)
    driver = f"/{_FOLDER}/{_DRIVER}"
    # What doctor itself starts; under doctor, it would be ended after 10 minutes.
    said = arm.edge_train(
        *("doctor", "--try", "webgpu"),
        VK_DRIVER_FILES=driver,
        VK_ICD_FILENAMES=driver,
        XDG_RUNTIME_DIR="/tmp",
        ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER="1",
    )
    return {
        "plugin": wheel_tags(arm.site_packages)[PLUGIN],
        "driver_of": PACKAGE,
        "did": json.loads(said),
    }
