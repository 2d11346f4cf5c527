"""Memory while decoding: what is predicted from the header, against what is measured.

Every picture is decoded in a process of its own, because freed memory may be used again.
"""

import json
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from edge_runtime.device import python_command

MIB = 1 << 20
CODE_BYTES = 6 * MIB  # of a decoder, loaded when it is first used
LARGEST_RATIO = 1.6
MEASURE = """
import json, os, sys
from edge_runtime.data import open_source
from edge_runtime.data.decoding_cost import decoding_peak_bytes
from edge_runtime.data.header import header_of

source = open_source(sys.argv[1])

def status_bytes(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

def measured_and_predicted(index, reduction):
    before = status_bytes("VmRSS")
    with source.open(index) as encoded:
        predicted = decoding_peak_bytes(encoded.header, encoded.file_bytes, reduction)
        encoded.decode(reduction)
    return status_bytes("VmHWM") - before, predicted

for index in range(len(source)):
    for reduction in (1, 4) if source.key(index).endswith("jpg") else (1,):
        sys.stdout.flush()
        if os.fork() == 0:
            name = f"{source.key(index)}/{reduction}"
            print(json.dumps([name, *measured_and_predicted(index, reduction)]), flush=True)
            os._exit(0)
        os.wait()
"""


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Some detail, quickly made and quickly compressed."""
    tile = np.random.default_rng(0).integers(0, 256, (64, 64, channels), dtype=np.uint8)
    tile = cv2.resize(tile[:8, :8], (64, 64)).reshape(64, 64, channels)
    return np.tile(tile, (height // 64 + 1, width // 64 + 1, 1))[:height, :width]


def save(path: Path, array: np.ndarray, **options) -> None:
    Image.fromarray(array.squeeze()).save(path, **options)


def deep(array: np.ndarray) -> np.ndarray:
    return array.astype(np.uint16) * 257


@pytest.fixture(scope="module")
def large_pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    square, phone = picture(8000, 8000), picture(3000, 4000)
    turned = Image.Exif()
    turned[0x0112] = 6
    save(folder / "8k.jpg", square)
    save(folder / "phone.jpg", phone, exif=turned)
    save(folder / "phone-progressive.jpg", phone, progressive=True, exif=turned)
    save(folder / "phone-progressive-444.jpg", phone, progressive=True, subsampling=0)
    rgb, rgba = square[:6000, :6000], picture(6000, 6000, 4)
    quick = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    cv2.imwrite(str(folder / "rgb.png"), rgb, quick)
    cv2.imwrite(str(folder / "rgba.png"), rgba, quick)
    cv2.imwrite(str(folder / "grey16.png"), deep(rgb[:, :, 0]), quick)
    small, small_rgba = rgb[:2500, :2500], rgba[:2500, :2500]
    cv2.imwrite(str(folder / "rgb16.png"), deep(small), quick)
    save(folder / "grey.png", small[:, :, 0], compress_level=1)
    save(folder / "lossy.webp", small, method=0)
    save(folder / "lossless.webp", small, method=0, lossless=True, quality=0)
    save(folder / "alpha.webp", small_rgba, method=0)
    save(folder / "one-strip.tiff", small, tiffinfo={278: 4000})
    save(folder / "strips.tiff", small, compression="tiff_lzw")
    save(folder / "grey.tiff", small[:, :, 0])
    cv2.imwrite(str(folder / "deep.tiff"), deep(small_rgba))
    save(folder / "rgb.bmp", small)
    save(folder / "rgb.ppm", small)
    return folder


def test_the_prediction_is_an_upper_bound_and_not_wasteful(large_pictures) -> None:
    done = subprocess.run(
        python_command(MEASURE, str(large_pictures)), capture_output=True, text=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(list(large_pictures.iterdir())) + 4, done.stderr
    wrong = {
        name: (measured // MIB, predicted // MIB)
        for name, measured, predicted in rows
        if not measured - CODE_BYTES <= predicted <= LARGEST_RATIO * measured
    }
    assert wrong == {}
