"""Memory while decoding: what is predicted from the header, against what is measured.

Every picture is decoded in a process of its own, because freed memory may be used again.
"""

import json
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_pictures import PLAIN, FlatFrames
from PIL import Image

from edge_runtime.data import decoding_bytes, open_source, view_batches
from edge_runtime.data.decoding_memory import CODE_BYTES
from edge_runtime.data.files import PictureFiles
from edge_runtime.device import python_command
from edge_runtime.package.manifest import AugmentationSpec, ViewGroup

MIB = 1 << 20
LARGEST_RATIO = 1.25
OF_ANIMATIONS = 1.6  # the C library may or may not use what Pillow freed before
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


def ratio_of(name: str) -> float:
    return OF_ANIMATIONS if name.startswith("animated") else LARGEST_RATIO


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
    frames = {"save_all": True, "append_images": [Image.fromarray(small[::-1].copy())]}
    save(folder / "animated.gif", small, **frames)
    save(folder / "animated.png", small, compress_level=1, **frames)
    save(folder / "animated.webp", small, method=0, **frames)
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
        if not measured - CODE_BYTES <= predicted <= ratio_of(name) * measured
    }
    assert wrong == {}


RUN = """
import json, os, sys
from pathlib import Path
from edge_runtime.data import decoding_bytes, open_source, view_batches
from edge_runtime.package.manifest import AugmentationSpec, ViewGroup

groups = (ViewGroup(name="a", size_px=32, views=(AugmentationSpec(min_area=0.2),) * 2),)

def status_bytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

def run(source, threads, limit_bytes):
    skipped = []
    with view_batches(
        source, groups, batch_size=6, seed=0, first_step=1, last_step=2, threads=threads,
        decoding_limit_bytes=limit_bytes,
    ) as batches:
        for batch in batches:
            skipped += [one.reason for one in batch.skipped]
    return skipped

threads = int(sys.argv[2])
run(open_source("digits"), threads, None)
before = status_bytes("VmRSS")
source = open_source(sys.argv[1])
predicted = decoding_bytes(source, groups, batch_size=6, threads=threads)
skipped = run(source, threads, predicted)
print(json.dumps([status_bytes("VmHWM") - before, predicted, skipped]))
"""


def run_on(source: Path, threads: int) -> tuple[int, int, list[str]]:
    """Measured growth and prediction in bytes, and what was skipped."""
    command = python_command(RUN, str(source), str(threads))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured, predicted, skipped = json.loads(done.stdout)
    return measured, predicted, skipped


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size_px", [1500, 2900])
def test_all_threads_of_a_run_keep_to_the_prediction(tmp_path, threads, size_px) -> None:
    content = cv2.imencode(".png", picture(size_px, size_px))[1].tobytes()
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(content)
    measured, predicted, skipped = run_on(tmp_path, threads)
    assert skipped == []
    assert measured - CODE_BYTES <= predicted
    assert predicted <= 6 * size_px**2 + len(content) + (threads - 1) * 17 * MIB


def test_a_4k_video_keeps_to_what_was_measured_when_it_was_opened(tmp_path) -> None:
    path = tmp_path / "4k.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (3840, 2160))
    frame = picture(2160, 3840)
    for number in range(14):
        writer.write(np.roll(frame, 8 * number, 1))
    writer.release()
    measured, predicted, _ = run_on(path, 1)
    assert 100 * MIB < predicted < 250 * MIB
    assert measured - CODE_BYTES <= predicted <= LARGEST_RATIO * measured


def write_small(folder: Path, count: int, size_px: int = 40) -> None:
    content = cv2.imencode(".png", picture(size_px, size_px))[1].tobytes()
    for number in range(count):
        (folder / f"{number:05}.png").write_bytes(content)


def predicted_bytes(source, threads: int = 1, size_px: int = 32) -> int:
    group = ViewGroup(name="a", size_px=size_px, views=(AugmentationSpec(min_area=0.2),))
    return decoding_bytes(source, [group], batch_size=8, threads=threads)


def test_the_largest_files_are_found_among_many(tmp_path) -> None:
    write_small(tmp_path, 1000)
    assert predicted_bytes(open_source(str(tmp_path))) == 8 * MIB
    large = cv2.imencode(".png", picture(2000, 2000))[1].tobytes()
    (tmp_path / "00777.png").write_bytes(large)
    expected = 6 * 2000**2 + len(large)
    assert predicted_bytes(open_source(str(tmp_path))) == expected
    assert predicted_bytes(open_source(str(tmp_path)), threads=3) == pytest.approx(
        expected + 2 * 16 * MIB
    )


def test_predicting_for_many_files_is_quick(tmp_path, monkeypatch) -> None:
    write_small(tmp_path, 400)
    source = open_source(str(tmp_path))
    many = PictureFiles("many", source._places * 125)
    assert len(many) == 50_000
    start_s = time.process_time()
    assert predicted_bytes(many) == 8 * MIB
    assert time.process_time() - start_s < 1


def test_views_decide_how_much_of_a_jpeg_is_decoded(tmp_path) -> None:
    save(tmp_path / "1.jpg", picture(3000, 4000))
    source = open_source(str(tmp_path))
    (file_bytes,) = source.file_sizes()
    assert predicted_bytes(source, size_px=300) == 6 * 2000 * 1500 + file_bytes
    assert predicted_bytes(source, size_px=1000) == 6 * 4000 * 3000 + file_bytes


def test_unreadable_pictures_do_not_matter(tmp_path) -> None:
    (tmp_path / "1.png").write_bytes(b"?")
    (tmp_path / "2.png").symlink_to("/dev/zero")
    assert predicted_bytes(open_source(str(tmp_path))) == 8 * MIB


def test_a_camera_is_taken_to_give_1080p() -> None:
    frame_bytes = 3 * 1920 * 1080
    pooled_bytes = 3 * 448 * 796 * 4 * 8
    predicted = predicted_bytes(open_source("camera:0"), size_px=224)
    assert predicted == 6 * frame_bytes + pooled_bytes


def test_pictures_in_memory_are_read_once() -> None:
    assert predicted_bytes(open_source("digits"), threads=3) == 3 * 16 * 16 * 3


def test_a_limit_leaves_fewer_frames_to_mix(monkeypatch) -> None:
    source = FlatFrames()
    monkeypatch.setattr("edge_runtime.data.decoding_memory._decoder_bytes", lambda _: 1000)
    group = ViewGroup(name="a", size_px=32, views=(PLAIN,))
    limit_bytes = 1000 + 3 * 16 * 40 * 60 * 3
    with view_batches(
        source,
        [group],
        batch_size=16,
        seed=0,
        first_step=1,
        last_step=1,
        threads=1,
        decoding_limit_bytes=limit_bytes,
    ) as batches:
        next(batches)
    assert source.given == 3 * 16
