"""Opening a package: everything is checked, and refusals name file and problem."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from spoilt_package import add_file, edit, problems, refusal, set_in, sha256
from training_fakes import write_package

from edge_runtime.cli.main import main
from edge_runtime.errors import ConfigError, PackageError
from edge_runtime.package import open_package
from edge_runtime.package.manifest import FORMAT

STEP = "graphs/k100/step.onnx"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_package(tmp_path_factory.mktemp("sound") / "package")


@pytest.fixture
def folder(tmp_path):
    """A package to modify."""
    return write_package(tmp_path / "package").path


def test_a_valid_package_opens(sound):
    package = open_package(sound.path)
    assert package == sound
    assert package.digest == sha256((sound.path / "manifest.json").read_bytes())
    assert package.initial_state().keys() == package.expected_state().keys()


def test_a_package_may_be_reached_through_a_link(sound, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(sound.path)
    assert open_package(link).digest == sound.digest


def test_a_link_to_a_file_of_the_package_is_followed(folder):
    (folder / STEP).unlink()
    (folder / STEP).symlink_to(folder / "graphs" / "k050" / "step.onnx")
    content = (folder / STEP).read_bytes()
    edit(folder, lambda table: table["sha256"].update({STEP: sha256(content)}))
    open_package(folder)


def test_files_that_the_manifest_does_not_name_are_ignored(folder):
    (folder / "notes.txt").write_text("mine")
    open_package(folder)


# The manifest as a file


def test_a_missing_package_is_reported(tmp_path):
    message = refusal(tmp_path / "gone")
    assert (
        "gone is not a training package: manifest.json cannot be read (No such file" in message
    )
    assert "Create one with `edge-train export`." in message


def test_a_file_is_not_a_package(tmp_path):
    (tmp_path / "package").write_text("")
    assert "is not a training package: manifest.json cannot" in refusal(tmp_path / "package")


def test_a_manifest_that_is_a_folder_is_reported(folder):
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    assert "manifest.json cannot be read (Is a directory)" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b'{"format": 3, "rec', b"\xff\xfe\x00", b"[" * 100_000, b"{" + b'"a":{' * 100_000],
    ids=["empty", "truncated", "binary", "deep list", "deep table"],
)
def test_a_manifest_that_is_not_json_is_reported(folder, content):
    (folder / "manifest.json").write_bytes(content)
    message = refusal(folder)
    assert "manifest.json is not complete JSON (" in message
    assert message.endswith("Copy or export it again.")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity_are_not_json(folder, number):
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    assert '"first": 0.01' in text
    manifest.write_text(text.replace('"first": 0.01', f'"first": {number}'))
    assert f"is not complete JSON ({number} is not a JSON number)" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ({"name": "a web application", "icons": []}, "None"),
        ([1], "None"),
        (1, "None"),
        ({"format": FORMAT + 1}, str(FORMAT + 1)),
        ({"format": "1"}, "'1'"),
        ({"format": True}, "True"),
        ({"format": 0}, "0"),
    ],
)
def test_another_format_is_reported_before_all_else(folder, content, shown):
    (folder / "manifest.json").write_text(json.dumps(content))
    message = refusal(folder)
    assert f"package format {shown} is unknown to this edge-train, which reads" in message
    assert (
        f"which reads format {FORMAT}. Export the package again with this version" in message
    )
    assert message.endswith("or install the version that wrote it.")


@pytest.mark.parametrize("number", range(1, FORMAT))
def test_a_package_of_an_earlier_format_is_refused_with_what_to_do(folder, number):
    """Before other problems: its other keys are unknown here."""
    (folder / "manifest.json").write_text(
        json.dumps({"format": number, "schedule": {"lr": 0.1}})
    )
    assert refusal(folder) == (
        f"{folder / 'manifest.json'}: package format {number} is older than this edge-train, "
        f"which reads format {FORMAT}. Export the package again with this version, or install "
        "the version that wrote it."
    )


@pytest.mark.parametrize("number", [float(FORMAT)])
def test_a_format_that_only_equals_this_one_is_refused(folder, number):
    edit(folder, lambda table: table.update(format=number))
    assert problems(folder) == [f"format: expected an integer, got {number}"]


def test_unknown_missing_and_mistyped_keys_are_reported_together(folder):
    def spoil(table):
        table["licence"] = "mine"
        del table["embed"]
        table["batch_size"] = "4"
        table["rungs"][1]["flops"] = 0.5
        table["model"]["colour"] = "red"
        table["state"][0]["shape"] = ["64"]
        table["sha256"] = []
        table["views"] = None

    edit(folder, spoil)
    text = "\n".join(problems(folder))
    assert text.count("\n") == 7
    for part in (
        "unknown key licence; known are format,",
        "missing key 'embed'",
        "batch_size: expected an integer, got '4'",
        "rungs[1].flops: expected an integer, got 0.5",
        "model: unknown key colour; known are name,",
        "state[0].shape[0]: expected an integer, got '64'",
        "sha256: expected a table, got []",
        "views: expected a list, got None",
    ):
        assert part in text


# Its files


@pytest.mark.parametrize("name", ["state.safetensors", "graphs/embed.onnx", STEP])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "is missing, or not a file."),
        (lambda file: (file.unlink(), file.mkdir()), "is missing, or not a file."),
        (lambda file: (file.unlink(), os.mkfifo(file)), "is missing, or not a file."),
        (lambda file: (file.unlink(), file.symlink_to(file)), "is missing, or not a file."),
        (
            lambda file: (file.unlink(), file.symlink_to("nowhere")),
            "is missing, or not a file.",
        ),
        (lambda file: file.write_bytes(b""), "was altered or truncated"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "was altered or truncated"),
        (lambda file: file.write_bytes(file.read_bytes() + b"\0"), "was altered or truncated"),
    ],
    ids=["missing", "folder", "pipe", "loop", "dangling", "empty", "shorter", "longer"],
)
def test_a_damaged_file_is_reported(folder, name, spoil, message):
    spoil(folder / name)
    text = refusal(folder)
    assert f"{folder}: {name} {message}" in text
    assert text.endswith("Copy or export the package again.")


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_any_changed_bit_is_noticed(folder, sound, data):
    name = data.draw(st.sampled_from(sorted(sound.manifest.sha256)))
    content = bytearray((sound.path / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    (folder / name).write_bytes(content)
    with pytest.raises(PackageError, match=f"{name} was altered"):
        open_package(folder)
    (folder / name).write_bytes((sound.path / name).read_bytes())


# The initial state


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda state: state.pop("ema.w"), r"ema\.w: missing \(1 differences\)"),
        (
            lambda state: state.update(more=np.zeros(1)),
            r"more: not expected \(1 differences\)",
        ),
        (
            lambda state: state.update({"param.w": np.zeros(3, np.float32)}),
            r"param\.w: expected \('float32', \(64,\)\), got \('float32', \(3,\)\)",
        ),
        (
            lambda state: state.update({"param.w": np.zeros(64)}),
            r"param\.w: expected .*, got \('float64', \(64,\)\)",
        ),
    ],
)
def test_a_state_that_is_not_as_declared_is_reported(folder, change, wanted):
    state = dict(open_package(folder).initial_state())
    change(state)
    add_file(folder, "state.safetensors", save(state))
    package = open_package(folder)
    with pytest.raises(PackageError, match=f"differs from the manifest: {wanted}"):
        package.initial_state()


@pytest.mark.parametrize("content", [b"", b"a pickle of old", b'\x02\0\0\0\0\0\0\0{"'])
def test_a_state_that_is_not_safetensors_is_reported(folder, content):
    add_file(folder, "state.safetensors", content)
    package = open_package(folder)
    with pytest.raises(PackageError, match=r"initial state cannot be read: .*not a complete"):
        package.initial_state()


def test_dtypes_that_numpy_does_not_have_are_reported(folder):
    header = b'{"param.w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    content = len(header).to_bytes(8, "little") + header + b"\0\0"
    add_file(folder, "state.safetensors", content)
    package = open_package(folder)
    with pytest.raises(PackageError, match="has a dtype that numpy does not: 'BF16'"):
        package.initial_state()


def test_a_removed_state_is_reported(folder):
    package = open_package(folder)
    (folder / "state.safetensors").unlink()
    with pytest.raises(PackageError, match=r"initial state cannot be read: .*No such file"):
        package.initial_state()


# Rungs


def test_rungs_are_found_by_id_and_by_keep_ratio(sound):
    assert sound.rung("k050") is sound.rung_with_keep_ratio(0.5)
    with pytest.raises(ConfigError, match=r"has no rung 'k5'; it has k100, k050\."):
        sound.rung("k5")
    with pytest.raises(
        ConfigError, match=r"keep-ratio 0\.6 is not on the ladder .* has 1, 0\.5"
    ):
        sound.rung_with_keep_ratio(0.6)


def test_the_largest_micro_batch_of_a_keep_ratio_comes_first(sound):
    step, half = sound.manifest.rungs
    parts = [
        dataclasses.replace(half, id=f"k050-m{n}", micro_batch=n, graphs={"accumulate": "a"})
        for n in (1, 4, 2)
    ]
    manifest = dataclasses.replace(sound.manifest, rungs=(step, *parts))
    package = dataclasses.replace(sound, manifest=manifest)
    ids = [rung.id for rung in package.rungs_with_keep_ratio(0.5)]
    assert ids == ["k050-m4", "k050-m2", "k050-m1"]
    assert package.rung_with_keep_ratio(0.5) is parts[1]
    # Without micro-batches is best, also beside parts as large as the batch.
    manifest = dataclasses.replace(manifest, rungs=(*parts, half, step))
    package = dataclasses.replace(sound, manifest=manifest)
    assert package.rung_with_keep_ratio(0.5) is half
    with pytest.raises(ConfigError, match=r"on the ladder .* it has 0\.5, 1\. Choose"):
        package.rung_with_keep_ratio(0.6)


def test_a_keep_ratio_and_a_plan_are_of_rungs_like_the_first(sound):
    dense, half = sound.manifest.rungs
    others = [
        dataclasses.replace(half, id="k050-p8", patch_size_px=2 * half.patch_size_px),
        dataclasses.replace(half, id="k050-last-1", trained="last-1"),
    ]
    manifest = dataclasses.replace(sound.manifest, rungs=(dense, *others, half))
    package = dataclasses.replace(sound, manifest=manifest)
    assert package.rungs_with_keep_ratio(0.5) == [half]
    # A plan may mix patch sizes: their token-blocks are comparable.
    assert [rung.id for rung in package.ladder()] == ["k100", "k050-p8", "k050"]


@pytest.mark.parametrize("keep_ratio", [0.0, -0.5, 1.1, float("nan")])
def test_a_keep_ratio_outside_is_reported(sound, keep_ratio):
    with pytest.raises(ConfigError, match=r"is outside \(0, 1\]\."):
        sound.rung_with_keep_ratio(keep_ratio)


# On the command line


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "is not a training package: manifest.json cannot be read"),
        (
            lambda f: (f / "manifest.json").write_text("{"),
            "manifest.json is not complete JSON",
        ),
        (lambda f: edit(f, set_in("format", 7)), "package format 7 is unknown"),
        (lambda f: edit(f, set_in("author", "me")), "unknown key author"),
        (lambda f: (f / STEP).unlink(), f"{STEP} is missing, or not a file"),
        (lambda f: (f / STEP).write_bytes(b"foreign"), f"{STEP} was altered or truncated"),
        (lambda f: edit(f, set_in("embed", "../embed")), "'../embed' is not described"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_command_line_exits_3(folder, capsys, spoil, message, options):
    spoil(folder)
    assert main(["inspect", str(folder), *options]) == 3
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("edge-train: ")
    assert message in error
