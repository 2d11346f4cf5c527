"""Large pictures within a memory limit that the kernel enforces."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from device_tests.cgroup import memory_cgroup

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
GROUP_BYTES = 200 * MIB
DECODING_BYTES = 100 * MIB  # the interpreter, its libraries and the views take the rest
RUN = """
import json, sys
from edge_runtime.data import open_source, view_batches
from edge_runtime.package.manifest import AugmentationSpec, ViewGroup

group = ViewGroup(name="a", size_px=96, views=(AugmentationSpec(min_area=0.2),) * 2)
limit = json.loads(sys.argv[2])
skipped = {}
with view_batches(
    open_source(sys.argv[1]), [group], batch_size=4, seed=0, first_step=1, last_step=40,
    threads=2, decoding_limit_bytes=limit,
) as batches:
    for batch in batches:
        skipped.update({one.key: one.reason for one in batch.skipped})
print(json.dumps(skipped))
"""


def write_pictures(folder: Path) -> None:
    """Four large pictures, two of which need more than the limit, and many small ones."""
    tile = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    tile = np.asarray(cv2.GaussianBlur(tile, (0, 0), 8), dtype=np.uint8)
    large = np.tile(tile, (80, 80, 1))  # (8000, 8000, 3)
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    quick = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    cv2.imwrite(str(folder / "8k.jpg"), large)
    cv2.imwrite(str(folder / "12-megapixels.jpg"), large[:3000, :4000], progressive)
    cv2.imwrite(str(folder / "6k.png"), large[:6000, :6000], quick)
    cv2.imwrite(str(folder / "8k-progressive.jpg"), large, progressive)
    for number in range(76):
        cv2.imwrite(str(folder / f"{number:02}.jpg"), tile)


def run_inside(folder: Path, limit_bytes: int | None) -> tuple[int, str, int]:
    """Exit code, output, and how many processes the kernel killed."""
    words = [sys.executable, "-c", RUN, str(folder), json.dumps(limit_bytes)]
    with memory_cgroup(GROUP_BYTES) as group:
        done = subprocess.run(group.command(words), cwd=ROOT, capture_output=True, text=True)
        return done.returncode, done.stdout or done.stderr, group.kills


def test_a_run_with_a_limit_survives_large_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    returncode, output, kills = run_inside(tmp_path, DECODING_BYTES)
    assert (returncode, kills) == (0, 0), output
    skipped = json.loads(output)
    assert set(skipped) == {"6k.png", "8k-progressive.jpg"}
    assert "more than the 100 MiB that this run has for decoding" in skipped["6k.png"]


def test_a_run_without_a_limit_does_not(tmp_path: Path) -> None:
    """Otherwise the test above would test nothing."""
    write_pictures(tmp_path)
    returncode, _, kills = run_inside(tmp_path, None)
    assert returncode == -9
    assert kills >= 1
