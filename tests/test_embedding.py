"""Embeddings through a real graph, and their file, read back as anybody would."""

import json
import os
import resource
import signal
import zipfile

import cv2
import numpy as np
import pytest
from data_pictures import png, smooth_picture
from test_evaluation import Camera, Pictures, numpy_features
from tiny_encoder import WIDTH, make_package, make_state

from edge_runtime.data import UnreadablePicture, open_source
from edge_runtime.errors import (
    ConfigError,
    DataError,
    DeviceError,
    DivergedError,
    StorageError,
)
from edge_runtime.evaluation import (
    embed,
    embedding_facts,
    encoder_metadata,
    features_file,
    save_embedding,
)
from edge_runtime.evaluation.features_file import is_features
from edge_runtime.evaluation.neighbours import neighbours_within


@pytest.fixture
def package(tmp_path):
    pytest.importorskip("onnxruntime")
    return make_package(tmp_path / "package")


class SomeBad(Pictures):
    """Pictures of which some are damaged."""

    def read(self, index):
        if index in (2, 5):
            raise UnreadablePicture("it was made bad")
        return super().read(index)


def saved(embedding, target):
    """The file's arrays by name, read without pickle."""
    size_bytes = save_embedding(embedding, target, run="some/run", step=7)
    assert size_bytes == target.stat().st_size
    with np.load(target, allow_pickle=False) as arrays:
        return dict(arrays)


def test_features_are_those_of_the_graph_and_pictures_need_no_labels(package):
    state, pictures = make_state(1), Pictures("some/folder", 70, labelled=False)
    embedding = embed(package, state, pictures, neighbours=3, top=4, threads=2)
    expected = numpy_features(state, pictures)
    # float32 on both sides; 48 products of up to 255 added in another order
    np.testing.assert_allclose(embedding.features, expected, rtol=1e-3, atol=1e-2)
    assert embedding.features.dtype == np.float32
    assert embedding.numbers.tolist() == list(range(70))
    assert embedding.labels is None
    near = neighbours_within(embedding.features, 3)
    for one, other in zip(embedding.neighbours, near, strict=True):
        np.testing.assert_array_equal(one, other)
    order = sorted(range(70), key=lambda row: (-near.mean_distances[row], row))
    assert embedding.least_typical.tolist() == order[:4]


def test_unreadable_pictures_are_left_out_and_named(package):
    pictures = SomeBad("some/folder", 100)
    embedding = embed(package, make_state(1), pictures)
    assert embedding.skipped.tolist() == [2, 5]
    rest = [number for number in range(100) if number not in (2, 5)]
    assert embedding.numbers.tolist() == rest
    assert embedding.labels.tolist() == pictures.labels[rest].tolist()
    assert embedding.name(2) == "3.png"
    facts = embedding_facts(embedding, run="run", step=1)
    assert facts["skipped"] == ["2.png", "5.png"]
    assert facts["pictures"] == 98


def test_only_the_first_pictures_are_embedded(package):
    embedding = embed(package, make_state(1), Pictures("a", 20), images=5)
    assert embedding.features.shape == (5, WIDTH)
    assert embedding.skipped.tolist() == []
    assert embedding.neighbours.rows.shape == (5, 4)


def test_features_that_are_not_finite_are_refused(package):
    state = make_state(1)
    state["ema.fc.weight"][0, 0] = np.nan
    with pytest.raises(DivergedError, match="features that are not finite numbers for a"):
        embed(package, state, Pictures("a", 3))


@pytest.mark.parametrize("name", ["images", "neighbours", "top"])
def test_numbers_below_one_are_refused(package, name):
    for number in (0, -1):
        with pytest.raises(ConfigError, match=rf"{name} is {number}; expected at least 1"):
            embed(package, make_state(1), Pictures("a", 3), **{name: number})


@pytest.fixture
def film(tmp_path):
    """A video of 11 frames."""
    path = str(tmp_path / "film.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    for number in range(11):
        writer.write(np.full((32, 32, 3), 20 * number, np.uint8))
    writer.release()
    return open_source(path)


@pytest.mark.parametrize("header", [3, 11, 50, None])
def test_a_video_may_have_other_frames_than_its_header_says(package, film, header):
    expected = embed(package, make_state(1), film)
    film.frame_count = header
    embedding = embed(package, make_state(1), film, images=40)
    assert embedding.numbers.tolist() == list(range(11))
    np.testing.assert_array_equal(embedding.features, expected.features)


def test_memory_is_that_of_the_frames_not_of_the_number_that_was_given(package, film):
    assert len(embed(package, make_state(1), film, images=1 << 50).features) == 11


def test_a_video_whose_decoder_does_not_fit_is_refused(package, film):
    film.decoder_bytes = 1 << 50
    with pytest.raises(DeviceError, match=r"embedding with .* needs about"):
        embed(package, make_state(1), film)


def test_a_camera_is_refused(package):
    with pytest.raises(DataError, match="camera:0 keeps no pictures"):
        embed(package, make_state(1), Camera(), images=10)


def test_the_file_has_all_that_was_computed(package, tmp_path):
    pictures = Pictures("some/folder", 30)
    embedding = embed(package, make_state(1), pictures, neighbours=3, top=4)
    arrays = saved(embedding, tmp_path / "new/folder/features.npz")
    assert {name: (array.dtype.str, array.shape) for name, array in arrays.items()} == {
        "facts": (arrays["facts"].dtype.str, ()),
        "pictures": ("<U6", (30,)),
        "features": ("<f4", (30, WIDTH)),
        "neighbours": ("<i8", (30, 3)),
        "distances": ("<f4", (30, 3)),
        "mean_distances": ("<f4", (30,)),
        "least_typical": ("<i8", (4,)),
        "labels": ("<i8", (30,)),
    }
    np.testing.assert_array_equal(arrays["features"], embedding.features)
    np.testing.assert_array_equal(arrays["neighbours"], embedding.neighbours.rows)
    np.testing.assert_array_equal(arrays["distances"], embedding.neighbours.distances)
    np.testing.assert_array_equal(
        arrays["mean_distances"], embedding.neighbours.mean_distances
    )
    np.testing.assert_array_equal(arrays["least_typical"], embedding.least_typical)
    np.testing.assert_array_equal(arrays["labels"], pictures.labels)
    assert arrays["pictures"].tolist() == [pictures.key(number) for number in range(30)]
    assert json.loads(arrays["facts"].item()) == {
        "format": 1,
        "run": "some/run",
        "step": 7,
        "encoder": encoder_metadata(package),
        "forward_engine": embedding.forward_engine,
        "data": "some/folder",
        "pictures": 30,
        "skipped": [],
        "classes": ["blue", "green", "red"],
    }


def test_what_computed_the_features_is_recorded(package, tensorrt):
    pictures = Pictures("some/folder", 40)
    for name, text in (
        ("ort", "ort, onnxruntime"),
        ("tensorrt", "tensorrt, TensorRT 10.3.0 on"),
    ):
        embedding = embed(package, make_state(1), pictures, forward_engine=name)
        assert embedding.forward_engine.startswith(text)
        assert embedding_facts(embedding, run="run", step=1)["forward_engine"].startswith(text)


def test_a_small_batch_does_not_fill_runs_of_tensorrt_with_black(
    package, tensorrt, monkeypatch
):
    monkeypatch.setattr("edge_runtime.evaluation.embedding.fitting_batch_size", lambda *_: 4)
    embed(package, make_state(1), Pictures("some/folder", 40), forward_engine="tensorrt")
    before = tensorrt.runs
    embed(package, make_state(1), Pictures("some/folder", 40), forward_engine="tensorrt")
    assert tensorrt.runs - before == 3  # one comes before the capture


def test_names_lead_to_the_files_whatever_their_bytes(package, tmp_path, monkeypatch):
    folder = tmp_path / "pictures"
    names = [b"\xff \xf0\x9f\x98\x80.png", b"a/b.png", b"a/" + b"c" * 250 + b".png"]
    for seed, name in enumerate(names):
        path = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(png(smooth_picture(8, 8, seed)))
    embedding = embed(package, make_state(1), open_source(folder))
    whole = saved(embedding, tmp_path / "whole.npz")
    for name in whole["pictures"].tolist():
        assert (folder / name).is_file()
    assert sorted(map(os.fsencode, whole["pictures"].tolist())) == sorted(names)
    monkeypatch.setattr(features_file, "_BLOCK_CHARACTERS", 1)
    parts = saved(embedding, tmp_path / "parts.npz")
    assert parts["pictures"].tolist() == whole["pictures"].tolist()


def test_a_single_picture_and_no_labels(package, tmp_path):
    embedding = embed(package, make_state(1), Pictures("a", 1, labelled=False))
    arrays = saved(embedding, tmp_path / "features.npz")
    assert "labels" not in arrays
    assert arrays["neighbours"].shape == arrays["distances"].shape == (1, 0)
    assert np.isnan(arrays["mean_distances"]).all()
    assert json.loads(arrays["facts"].item())["classes"] == []


def test_the_same_embedding_gives_the_same_bytes(package, tmp_path):
    for name in ("one", "other"):
        embedding = embed(package, make_state(1), Pictures("a", 9), threads=1)
        save_embedding(embedding, tmp_path / name, run="run", step=1)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert zipfile.ZipFile(tmp_path / "one").testzip() is None


def test_no_other_file_is_replaced(package, tmp_path):
    embedding = embed(package, make_state(1), Pictures("a", 9))
    target = tmp_path / "notes"
    target.write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not a features file of edge-train"):
        save_embedding(embedding, target, run="run", step=1)
    assert target.read_text() == "mine"
    target.write_text("")
    assert save_embedding(embedding, target, run="run", step=1) > 0


def test_a_file_of_ours_is_known_by_its_end(package, tmp_path):
    embedding = embed(package, make_state(1), Pictures("a", 9))
    target = tmp_path / "features.npz"
    save_embedding(embedding, target, run="run", step=1)
    assert is_features(target)
    np.savez(tmp_path / "other.npz", features=embedding.features)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "cut.npz").write_bytes(target.read_bytes()[:-1])
    (tmp_path / "short").write_bytes(b"features")
    for name in ("other.npz", "fifo", "cut.npz", "short", "missing", "."):
        assert not is_features(tmp_path / name)


@pytest.mark.parametrize("free_bytes", [0, 100, 2000])
def test_a_full_disk_leaves_the_former_file(package, tmp_path, free_bytes):
    embedding = embed(package, make_state(1), Pictures("a", 60))
    target = tmp_path / "features.npz"
    save_embedding(embedding, target, run="former", step=1)
    former, before = target.read_bytes(), sorted(tmp_path.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing fails instead
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*features\.npz: File too"):
            save_embedding(embedding, target, run="run", step=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_bytes() == former
    assert sorted(tmp_path.iterdir()) == before
