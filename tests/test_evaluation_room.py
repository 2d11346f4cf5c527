"""What an evaluation is predicted to need, against what it takes in a process of its own."""

import json
import subprocess
from dataclasses import replace

import pytest

from edge_runtime.device import memory_now, python_command
from edge_runtime.engines import encoder_state_names
from edge_runtime.errors import DeviceError
from edge_runtime.evaluation import room
from edge_runtime.evaluation.room import (
    BATCH_SIZES,
    EmbeddingAmounts,
    EvaluationAmounts,
    decoding_limit,
    evaluation_bytes,
    fitting_batch_size,
    reading_bytes,
)
from edge_runtime.selftest import open_selftest

MIB = 1 << 20
AMOUNTS = EvaluationAmounts(train_pictures=1000, test_pictures=200, classes=10, linear=False)
EMBEDDING = EmbeddingAmounts(pictures=1200, neighbours=10)

MEASURE = """
import json
import numpy as np
from edge_runtime.device import memory_now
from edge_runtime.engines import encoder_state_names
from edge_runtime.evaluation import embed, embedding, evaluate, scores
from edge_runtime.evaluation.room import evaluation_bytes
from edge_runtime.profiling.worker import Noise
from edge_runtime.selftest import open_selftest

pictures, classes, batch_size, linear, neighbours = json.loads(sys.argv[1])

class Labelled(Noise):
    classes = [str(number) for number in range(classes)]

    def __init__(self, pictures, size_px):
        super().__init__(pictures, size_px)
        self.labels = np.arange(pictures) % classes

def predict(package, amounts):
    global needed
    needed = memory_now().rss_bytes + evaluation_bytes(package, amounts, batch_size)
    return batch_size

scores.fitting_batch_size = embedding.fitting_batch_size = predict
package = open_selftest()
size_px = package.manifest.model.image_size_px
sources = Labelled(pictures, size_px), Labelled(max(classes, pictures // 4), size_px)
state = package.initial_state(encoder_state_names(package))
if neighbours:
    embed(package, state, sources[0], neighbours=neighbours, threads=2)
else:
    evaluate(package, state, *sources, linear=linear, threads=2)
print(json.dumps([needed, memory_now().peak_rss_bytes]))
"""


@pytest.mark.parametrize(
    ("pictures", "classes", "batch_size", "linear", "neighbours"),
    [
        (500, 10, 1, False, 0),
        (500, 10, 512, False, 0),
        (8000, 10, 64, True, 0),
        (3000, 500, 16, True, 0),
        (500, 10, 512, False, 5),
        (8000, 10, 64, False, 1000),
    ],
)
def test_the_prediction_is_a_close_upper_bound(
    pictures, classes, batch_size, linear, neighbours
):
    pytest.importorskip("onnxruntime")
    amounts = json.dumps([pictures, classes, batch_size, linear, neighbours])
    command = python_command(MEASURE, amounts)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    needed_bytes, peak_bytes = json.loads(done.stdout)
    assert 1 <= needed_bytes / peak_bytes < 1.3


def leave(monkeypatch, room_bytes: int) -> None:
    """Let this process have that much more than it holds."""
    now = memory_now()
    there = replace(now, limit_bytes=now.rss_bytes + room_bytes, available_bytes=room_bytes)
    monkeypatch.setattr(room, "memory_now", lambda: there)
    monkeypatch.setitem(room.require_room.__kwdefaults__, "read_memory", lambda: there)


def test_the_batch_is_as_large_as_memory_allows(monkeypatch):
    """Of a model with so many tokens that a batch needs more than the weights."""
    package = open_selftest()
    model = replace(package.manifest.model, tokens=4097)
    package = replace(package, manifest=replace(package.manifest, model=model))
    for batch_size in BATCH_SIZES:
        needed = evaluation_bytes(package, AMOUNTS, batch_size)
        leave(monkeypatch, needed)
        assert fitting_batch_size(package, AMOUNTS) == batch_size
        if batch_size > 1:
            leave(monkeypatch, needed - 1)
            assert fitting_batch_size(package, AMOUNTS) == batch_size // 2


def test_an_evaluation_that_cannot_fit_is_refused(monkeypatch):
    package = open_selftest()
    leave(monkeypatch, evaluation_bytes(package, AMOUNTS, 1) - 1)
    with pytest.raises(DeviceError, match=r"evaluation of .* needs about .* fewer pictures"):
        fitting_batch_size(package, AMOUNTS)


def test_an_embedding_that_cannot_fit_is_refused(monkeypatch):
    package = open_selftest()
    leave(monkeypatch, evaluation_bytes(package, EMBEDDING, 1))
    assert fitting_batch_size(package, EMBEDDING) >= 1
    more = replace(EMBEDDING, neighbours=1000)
    with pytest.raises(DeviceError, match=r"embedding with .* needs about .*\(--images N\)"):
        fitting_batch_size(package, more)


def test_frames_of_a_video_are_not_skipped_for_their_decoder(monkeypatch):
    package = open_selftest()
    needed = evaluation_bytes(package, EMBEDDING, 1)
    film = replace(EMBEDDING, decoding_bytes=100 * MIB, is_video=True)
    leave(monkeypatch, needed + 100 * MIB)
    assert fitting_batch_size(package, film) >= 1
    leave(monkeypatch, needed + 99 * MIB)
    assert fitting_batch_size(package, replace(film, is_video=False)) >= 1
    with pytest.raises(DeviceError, match=r"embedding with .* needs about"):
        fitting_batch_size(package, film)


def test_reading_an_encoder_takes_its_tensors_and_the_largest_once_more():
    package = open_selftest()
    names = encoder_state_names(package)
    sizes = [value.nbytes for value in package.initial_state(names).values()]
    assert reading_bytes(package) == sum(sizes) + max(sizes)


def test_more_pictures_and_classes_need_more():
    package = open_selftest()
    few = evaluation_bytes(package, AMOUNTS, 64)
    many = replace(AMOUNTS, train_pictures=101_000)
    width = package.manifest.model.width
    assert evaluation_bytes(package, many, 64) - few >= 100_000 * width * 4
    probe = evaluation_bytes(package, replace(many, linear=True), 64)
    assert probe - evaluation_bytes(package, many, 64) >= 90_000 * width * 8


def test_large_pictures_take_memory_from_the_batch_and_giants_are_skipped(monkeypatch):
    package = open_selftest()
    model = replace(package.manifest.model, tokens=513)
    package = replace(package, manifest=replace(package.manifest, model=model))
    full = evaluation_bytes(package, AMOUNTS, 64)
    leave(monkeypatch, full)
    large = replace(AMOUNTS, decoding_bytes=full - evaluation_bytes(package, AMOUNTS, 16))
    assert fitting_batch_size(package, large) == 16
    assert decoding_limit(package, large, 16) == pytest.approx(large.decoding_bytes, abs=1)
    giant = replace(AMOUNTS, decoding_bytes=1 << 40)
    batch_size = fitting_batch_size(package, giant)
    limit = decoding_limit(package, giant, batch_size)
    assert batch_size >= 32
    assert 8 << 20 < limit < full
    leave(monkeypatch, 1 << 40)
    assert decoding_limit(package, AMOUNTS, 64) is None
