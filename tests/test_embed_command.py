"""`edge-train embed` on a run folder, from the flags to the exit code."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluated_runs import make_run, save_checkpoint, write_colours
from tiny_encoder import SIZE_PX, WIDTH, make_package, make_state

from edge_runtime.cli.main import main
from edge_runtime.evaluation import encoder_metadata
from edge_runtime.evaluation.room import EmbeddingAmounts
from edge_runtime.records import open_run

PAGE = Path(__file__).parents[1] / "docs/commands/embed.md"


@pytest.fixture
def package(tmp_path):
    pytest.importorskip("onnxruntime")
    return make_package(tmp_path / "package")


@pytest.fixture
def run_folder(tmp_path, package):
    return make_run(tmp_path / "run", package, 3, 10)


@pytest.fixture
def pictures(tmp_path):
    """24 pictures of two classes."""
    write_colours(tmp_path / "pictures", 12)
    return tmp_path / "pictures"


@pytest.fixture
def embed_command(run_folder, pictures, tmp_path):
    return ["embed", str(run_folder), str(pictures), "-o", str(tmp_path / "features.npz")]


def features_in(tmp_path):
    with np.load(tmp_path / "features.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def test_embed_json_has_everything(embed_command, run_folder, package, tmp_path, capsys):
    assert main([*embed_command, "--neighbours", "3", "--top", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    least_typical = document.pop("least_typical")
    assert re.fullmatch("ort, onnxruntime.* on cpu", document["forward_engine"])
    assert document == {
        "path": embed_command[-1],
        "format": 1,
        "run": str(run_folder),
        "step": 10,
        "encoder": encoder_metadata(package),
        "forward_engine": document["forward_engine"],
        "data": embed_command[2],
        "pictures": 24,
        "skipped": [],
        "classes": ["blue", "red"],
        "neighbours": 3,
    }
    arrays = features_in(tmp_path)
    assert arrays["least_typical"].tolist() == [entry["row"] for entry in least_typical]
    for entry in least_typical:
        row, names = entry["row"], arrays["pictures"]
        assert entry == {
            "row": row,
            "picture": names[row],
            "mean_distance": float(arrays["mean_distances"][row]),
            "nearest": [
                {
                    "row": int(arrays["neighbours"][row, column]),
                    "picture": names[arrays["neighbours"][row, column]],
                    "distance": float(arrays["distances"][row, column]),
                }
                for column in range(3)
            ],
        }
    assert open_run(run_folder).events() == []


def test_embed_shows_the_least_typical_pictures(embed_command, tmp_path, capsys):
    odd = tmp_path / "pictures/red/odd one.png"
    cv2.imwrite(str(odd), np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8))
    assert main([*embed_command, "--top", "3"]) == 0
    written = capsys.readouterr()
    arrays, lines = features_in(tmp_path), written.out.splitlines()
    first = arrays["least_typical"][0]
    assert arrays["pictures"][first] == "red/odd one.png"
    assert lines[0].startswith(f"25 picture(s) of {embed_command[2]}, encoder after 10 steps")
    assert lines[1].startswith("computed by ort, onnxruntime")
    assert lines[2].startswith("the least typical, by mean cosine distance to the 10 nearest")
    assert lines[3].split() == ["distance", "picture", "nearest"]
    nearest = arrays["pictures"][arrays["neighbours"][first, 0]]
    assert re.split(" {2,}", lines[4]) == [
        f"{arrays['mean_distances'][first]:.4f}",
        "red/odd one.png",
        nearest,
        f"{arrays['distances'][first, 0]:.4f}",
    ]
    assert len(lines) == 7
    assert written.err == f"wrote {embed_command[-1]}\n"


def test_embed_of_a_few_pictures(embed_command, tmp_path, capsys):
    assert main([*embed_command, "--images", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["neighbours"] == 3
    assert main([*embed_command, "--images", "1"]) == 0
    assert "one picture has no neighbours" in capsys.readouterr().out
    assert features_in(tmp_path)["features"].shape == (1, WIDTH)


def test_embed_names_what_it_skips_and_escapes_names(embed_command, tmp_path, capsys, caplog):
    folder = tmp_path / "pictures/red"
    bad = folder / "\udcff\u202e.png"
    for number in range(20):
        shutil.copy(folder / "0.png", folder / f"again {number}.png")
    bad.write_bytes(b"no picture")
    assert main([*embed_command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["skipped"] == [r"red/\xff\u202e.png"]
    assert r"red/\xff\u202e.png cannot be read and is skipped" in caplog.text
    bad.write_bytes((folder / "1.png").read_bytes())
    assert main([*embed_command, "--top", "100", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    shown = [entry["picture"] for entry in document["least_typical"]]
    assert r"red/\xff\u202e.png" in shown
    assert len(shown) == 45
    assert "red/\udcff\u202e.png" in features_in(tmp_path)["pictures"].tolist()


def test_embed_replaces_only_its_own_file(embed_command, tmp_path, capsys):
    target = tmp_path / "features.npz"
    np.savez(target, features=np.zeros(3))
    mine = target.read_bytes()
    assert main(embed_command) == 2
    assert "exists and is not a features file of edge-train" in capsys.readouterr().err
    assert target.read_bytes() == mine
    target.unlink()
    assert main([*embed_command, "--images", "5"]) == 0
    assert main(embed_command) == 0
    assert features_in(tmp_path)["features"].shape == (24, WIDTH)


def test_embed_lists_the_ten_nearest_and_the_file_has_all(embed_command, tmp_path, capsys):
    assert main([*embed_command, "--neighbours", "20", "--top", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (entry,) = document["least_typical"]
    assert document["neighbours"] == 20
    near = features_in(tmp_path)["neighbours"]
    assert near.shape == (24, 20)
    assert [each["row"] for each in entry["nearest"]] == near[entry["row"], :10].tolist()


def test_embed_shows_its_result_where_the_file_cannot_be_written(
    embed_command, tmp_path, capsys
):
    (tmp_path / "file").touch()
    command = [*embed_command[:-1], str(tmp_path / "file/features.npz"), "--json"]
    assert main(command) == 9
    written = capsys.readouterr()
    assert len(json.loads(written.out)["least_typical"]) == 10
    assert "cannot write" in written.err
    assert "wrote" not in written.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_embed_without_a_file(embed_command, tmp_path, monkeypatch, number):
    lying = sorted(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", lambda handle: os.kill(os.getpid(), number))
    assert main(embed_command) == 130
    assert sorted(tmp_path.iterdir()) == lying


def test_embed_refuses_a_camera_and_diverged_weights(
    embed_command, run_folder, tmp_path, capsys
):
    command = ["embed", str(tmp_path / "missing"), "camera:0", *embed_command[3:]]
    assert main(command) == 6  # before the run is read
    assert "camera:0 keeps no pictures" in capsys.readouterr().err
    state = make_state(11)
    state["ema.fc.weight"][0, 0] = np.nan
    save_checkpoint(run_folder, 11, state)
    assert main(embed_command) == 8
    assert "features that are not finite" in capsys.readouterr().err
    assert not (tmp_path / "features.npz").exists()


def test_embed_refuses_what_does_not_fit_into_memory(embed_command, monkeypatch, capsys):
    monkeypatch.setattr(EmbeddingAmounts, "bytes_after", lambda *_: 1 << 50)
    assert main(embed_command) == 4
    assert "embedding with" in capsys.readouterr().err


def test_the_example_of_the_page_reads_the_file(
    embed_command, run_folder, tmp_path, monkeypatch, capsys
):
    assert main([*embed_command, "--top", "1", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["least_typical"]
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert capsys.readouterr().out == f"{run_folder} 10\n['{entry['picture']}']\n"
