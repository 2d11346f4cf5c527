"""The names in a manifest: files inside the package; test_package_graphs.py has the graphs."""

import json
import shutil

import pytest
from spoilt_package import edit, problems, sha256, with_everything
from training_fakes import write_package

from edge_runtime.package import open_package

STEP, EMBED = "graphs/k100/step.onnx", "graphs/embed.onnx"


@pytest.fixture
def folder(tmp_path):
    """A package to modify."""
    return write_package(tmp_path / "package").path


OUTSIDE = [
    "/etc/hostname",
    "..",
    "../secret",
    "graphs/../../secret",
    "graphs/../state.safetensors",
    "./state.safetensors",
    "graphs//embed.onnx",
    "graphs/",
    "",
    ".",
    "graphs\\embed.onnx",
    "C:\\secret",
    "state\0.safetensors",
    "line\nbreak",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_is_not_a_plain_path_is_reported(folder, tmp_path, name):
    (tmp_path / "secret").write_bytes(b"secret")
    edit(folder, lambda table: table["sha256"].update({name: sha256(b"secret")}))
    assert problems(folder) == [f"{name!r} is not a plain path inside the package"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("key", ["embed", "state_file"])
def test_such_a_name_is_not_a_file_either(folder, name, key):
    edit(folder, lambda table: table.update({key: name}))
    assert f"the SHA-256 of {name!r} is missing" in problems(folder)


def test_a_link_out_of_the_package_is_reported(folder, tmp_path):
    content = (folder / STEP).read_bytes()
    (tmp_path / "elsewhere.onnx").write_bytes(content)
    (folder / STEP).unlink()
    (folder / STEP).symlink_to(tmp_path / "elsewhere.onnx")
    assert problems(folder) == [f"{STEP!r} is a link that leaves the package"]


def test_a_folder_that_leads_out_of_the_package_is_reported(folder, tmp_path):
    shutil.move(folder / "graphs", tmp_path / "graphs")
    (folder / "graphs").symlink_to(tmp_path / "graphs")
    assert f"{STEP!r} is a link that leaves the package" in problems(folder)


def test_every_file_that_is_used_has_a_hash(folder):
    used = with_everything(folder)
    open_package(folder)
    text = (folder / "manifest.json").read_text()
    for name in used:
        edit(folder, lambda table, name=name: table["sha256"].pop(name))
        assert problems(folder) == [f"the SHA-256 of {name!r} is missing"]
        (folder / "manifest.json").write_text(text)


def test_every_graph_that_is_used_is_described(folder):
    used = with_everything(folder)
    text = (folder / "manifest.json").read_text()
    for name in json.loads(text)["graphs"].keys() & set(used):
        edit(folder, lambda table, name=name: table["graphs"].pop(name))
        assert problems(folder) == [f"graph {name!r} is not described in graphs"]
        (folder / "manifest.json").write_text(text)


def test_names_that_point_elsewhere_are_reported(folder):
    with_everything(folder)

    def spoil(table):
        table["merge"] = "/etc/hostname"
        table["ort_training"]["checkpoint"] = "../checkpoint"

    edit(folder, spoil)
    assert problems(folder) == [
        "graph '/etc/hostname' is not described in graphs",
        "the SHA-256 of '../checkpoint' is missing",
        "the SHA-256 of '/etc/hostname' is missing",
    ]
