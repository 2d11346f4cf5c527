"""The usual verification: two rungs, few pictures, and graphs of the same nodes."""

import pytest

torch = pytest.importorskip("torch", reason="packages are verified against PyTorch")

from paired_objective import paired_method  # noqa: E402

from edge_export.lowering.table import TABLE  # noqa: E402
from edge_export.ort_training import artifacts as ort_training  # noqa: E402
from edge_export.package import few_pictures, verify  # noqa: E402
from edge_export.package.build import export_package  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_runtime.errors import PackageError  # noqa: E402

TINY = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 1, "width": 16, "heads": 1},
    "method": {"name": "simclr", "projector_width": 16, "projector_out": 8},
    "batch_size": 12,
}
FEW = few_pictures.PICTURES


@pytest.fixture(autouse=True)
def tried(monkeypatch):
    """(engine, rung, pictures, micro-batch) of every compared step."""
    seen, original = [], verify._difference

    def noted(rung, described, engine, *given, seed):
        seen.append((engine.name, described.id, rung.images, described.micro_batch))
        return original(rung, described, engine, *given, seed=seed)

    monkeypatch.setattr(verify, "_difference", noted)
    monkeypatch.setattr(verify, "TRIES", 1)
    monkeypatch.setattr(ort_training, "is_available", lambda: False)
    return seen


def export(folder, *, verify_all=False, **table):
    recipe = make_recipe({**TINY, **table}, where="test")
    target = folder / "package"
    package = export_package(
        recipe, target, init=None, report=lambda *_: None, verify_all=verify_all
    )
    assert list(folder.iterdir()) == [target]  # nothing lies beside it
    return package


@pytest.mark.parametrize(("method", "tokens"), [("simclr", "random"), ("mocov3", "simprune")])
def test_the_first_and_the_last_rung_are_compared_on_few_pictures(
    tmp_path, tried, method, tokens
):
    table = {
        "model": {**TINY["model"], "depth": 2},
        "method": {**TINY["method"], "name": method},
        "tokens": {"name": tokens},
    }
    export(tmp_path, keep_ratios=[1.0, 0.75, 0.5], **table)
    rungs = ("k100", "k050")
    assert tried == [("ort", rung, FEW, None) for rung in rungs]


def test_verify_full_compares_every_rung_on_its_batch(tmp_path, tried):
    export(tmp_path, keep_ratios=[1.0, 0.75, 0.5], verify_all=True)
    rungs = ("k100", "k075", "k050")
    assert tried == [("ort", rung, 12, None) for rung in rungs]


def test_a_batch_of_few_pictures_is_verified_as_it_is(tmp_path, tried):
    export(tmp_path, batch_size=3, keep_ratios=[1.0, 0.5])
    assert {images for _, _, images, _ in tried} == {3}


@pytest.mark.parametrize(("size", "part"), [(6, FEW // 2), (3, FEW // 2), (12, FEW)])
def test_micro_batches_stay_a_part_or_the_whole_batch(tmp_path, tried, size, part):
    with paired_method():
        options = {**TINY["method"], "name": "paired"}
        export(tmp_path, method=options, keep_ratios=[0.5], micro_batches=[size])
    whole, parts = tried
    assert whole == ("ort", "k050", FEW, None)
    assert parts == ("ort", f"k050-m{size}", FEW, part)


def test_a_wrong_operator_is_found(tmp_path, monkeypatch):
    softmax = torch.ops.aten._softmax.default
    original = TABLE[softmax]

    def wrong(g, *arguments, **options):
        return g.op("Mul", original(g, *arguments, **options), g.constant(1.01, "float32"))

    monkeypatch.setitem(TABLE, softmax, wrong)
    with pytest.raises(PackageError, match=r"rung k100 on engine ort .* differs from PyTorch"):
        export(tmp_path, keep_ratios=[1.0, 0.5])
    assert list(tmp_path.iterdir()) == []


def test_a_rung_with_other_operators_is_compared_on_its_batch(tmp_path, tried, monkeypatch):
    original = few_pictures._operators

    def different(package, rung):
        found = original(package, rung)
        is_first = rung.id == "k100" and package.manifest.batch_size == FEW
        return [*found, ["Mul"]] if is_first else found

    monkeypatch.setattr(few_pictures, "_operators", different)
    export(tmp_path, keep_ratios=[1.0, 0.5])
    assert tried == [
        ("ort", "k100", FEW, None),
        ("ort", "k050", FEW, None),
        ("ort", "k100", 12, None),
    ]


def test_wrong_artifacts_are_left_out(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime.training.api", reason="the official training API")
    monkeypatch.setattr(ort_training, "is_available", lambda: True)
    original = verify._difference

    def wrong(rung, described, engine, *given, seed):
        if engine.name == "ort-training":
            return "loss is 1, expected 2"
        return original(rung, described, engine, *given, seed=seed)

    monkeypatch.setattr(verify, "_difference", wrong)
    package = export(tmp_path, keep_ratios=[1.0, 0.5])
    assert "differs from PyTorch: loss is 1" in package.manifest.ort_training.refused
    assert all(rung.ort_training is None for rung in package.manifest.rungs)
