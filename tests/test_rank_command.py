"""`edge-train rank`: which pictures it ranks, and what it refuses before the long search."""

import json
import sys
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="rankers are trained with PyTorch")

from ranker_file import write_ranker  # noqa: E402
from teacher_file import write_teacher  # noqa: E402
from test_ranker_file import FLAGS, SMALL, WIDTH  # noqa: E402

from edge_export import ranking  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_runtime import data, state, storage  # noqa: E402
from edge_runtime.cli import rank  # noqa: E402
from edge_runtime.cli.main import main  # noqa: E402
from edge_runtime.errors import StorageError  # noqa: E402


@pytest.fixture
def rank_command(tmp_path):
    """The words of the command for some data; it writes into a folder that is missing."""
    encoder = tmp_path / "encoder.safetensors"
    write_teacher(encoder, make_recipe(SMALL, where="test").facts())
    target = tmp_path / "new/ranker.safetensors"
    words = ["--init", str(encoder), "-o", str(target)]
    return lambda pictures, *more: ["rank", *FLAGS, str(pictures), *words, *more]


@pytest.fixture
def searched(monkeypatch):
    """The pictures of each search, of which none is done."""
    calls = []

    def train_ranker(encoder, images, *, seed, report):
        calls.append(images)
        overlap = ranking.Overlap(ranker=0.5, attention=0.4, random=0.25)
        return ranking.TrainedRanker({}, {"after": "1"}, overlap, 6)

    monkeypatch.setattr(ranking, "train_ranker", train_ranker)
    return calls


def write_film(path, frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    for number in range(frames):
        writer.write(np.full((32, 32, 3), 5 * number, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("header", [40, 400, None])
def test_no_frame_of_a_video_is_ranked_twice(
    rank_command, searched, tmp_path, monkeypatch, header
):
    """The first batch is mixed from 128 frames, and the film has 40."""
    film, made = write_film(tmp_path / "film.avi", 40), []
    open_source, view_batches = data.open_source, data.view_batches

    def open_film(spec):
        source = open_source(spec)
        source.frame_count = header
        return source

    @contextmanager
    def kept_batches(*arguments, **named):
        with view_batches(*arguments, **named) as batches:
            made.extend(batches)
            yield iter(made)

    monkeypatch.setattr(data, "open_source", open_film)
    monkeypatch.setattr(data, "view_batches", kept_batches)
    assert main(rank_command(film)) == 0
    (images,), (batch,) = searched, made
    frames = [number % 40 for number in batch.pictures]
    assert len(images) == len(set(frames)) < len(frames) == 32


def test_a_picture_that_replaces_another_is_ranked_once(
    rank_command, searched, tmp_path, capsys
):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(64):
        picture = np.full((16, 16, 3), 3 * number, np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.png"), picture)
    (folder / "05.png").write_bytes(b"no picture")
    assert main(rank_command(folder)) == 0
    assert "05.png cannot be read and is skipped" in capsys.readouterr().err
    assert len(searched[0]) == 63


def test_too_few_pictures_are_refused(rank_command, tmp_path, capsys):
    film = write_film(tmp_path / "film.avi", 31)
    assert main(rank_command(film)) == 6
    assert "has 31 picture(s), and a ranker needs at least 32" in capsys.readouterr().err


def test_where_no_file_can_be_written_nothing_is_searched(
    rank_command, searched, tmp_path, capsys
):
    (tmp_path / "new").write_text("a file")
    assert main(rank_command("digits", "--pictures", "32")) == 9
    assert "cannot write" in capsys.readouterr().err
    assert searched == []


def test_the_result_is_shown_where_the_disk_is_full(
    rank_command, searched, tmp_path, monkeypatch, capsys
):
    def full(*_):
        raise StorageError("the disk is full")

    monkeypatch.setattr(storage, "write_chunks", full)
    assert main(rank_command("digits", "--pictures", "32", "--json")) == 9
    out, error = capsys.readouterr()
    assert json.loads(out)["overlap"]["ranker"] == 0.5
    assert "the disk is full" in error
    assert "wrote" not in error
    assert list((tmp_path / "new").iterdir()) == []


def test_a_recipe_is_not_taken_for_pictures(tmp_path, capsys):
    """As it would be where flags stand between the two, or the pictures are forgotten."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("")
    for words in ([str(recipe)], [str(recipe), "--init", "x", "pictures"]):
        with pytest.raises(SystemExit) as caught:
            main(["rank", *words, "-o", "y"])
        assert caught.value.code == 2
        message = "is a recipe, not pictures. Give RECIPE.toml and DATA side by side"
        assert message in capsys.readouterr().err


def test_without_torch_the_error_is_about_rank(tmp_path, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.partition(".")[0] == "edge_export"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    assert main(["rank", *FLAGS, "digits", "--init", "x", "-o", str(tmp_path / "y")]) == 2
    error = capsys.readouterr().err
    assert "rank needs torch and onnx (" in error
    assert "Rank on another machine and copy the file." in error


def test_a_ranker_is_known_without_reading_its_tensors(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "_read_tensor", None)
    assert rank._is_ranker(write_ranker(tmp_path / "ranker.safetensors", WIDTH))
    assert not rank._is_ranker(tmp_path / "missing")
