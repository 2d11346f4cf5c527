"""Impossible values in a manifest: out of range, repeated, or naming unknown things."""

import pytest
from spoilt_package import edit, problems, set_in
from training_fakes import write_package

EMBED = "graphs/embed.onnx"


@pytest.fixture
def folder(tmp_path):
    """A package to modify."""
    return write_package(tmp_path / "package").path


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (set_in("rungs", 1, "id", "k100"), "rung 'k100' appears 2 times"),
        (
            lambda t: t["state"].append(t["state"][0]),
            "state tensor 'param.w' appears 2 times",
        ),
        (lambda t: t["views"].append(t["views"][0]), "view group 'global' appears 2 times"),
        (set_in("batch_size", 0), "batch_size: expected an integer >= 1, got 0"),
        (set_in("rungs", []), "rungs: expected at least one"),
        (
            set_in("views", 0, "size_px", 0),
            "views[0].size_px: expected an integer >= 1, got 0",
        ),
        (
            set_in("views", 0, "views", []),
            "view group 'global': expected at least one view",
        ),
        (
            set_in("rungs", 1, "draws", 0, "kept", 5),
            "rung 'k050': cannot draw 5 of 4 for 'draws.tokens'",
        ),
        (
            set_in("rungs", 1, "draws", 0, "kept", 0),
            "rungs[1].draws[0].kept: expected an integer >= 1, got 0",
        ),
        (
            set_in("rungs", 1, "draws", 0, "views", 0),
            "rungs[1].draws[0].views: expected an integer >= 1, got 0",
        ),
        (
            set_in("rungs", 0, "micro_batch", 0),
            "rungs[0].micro_batch: expected an integer >= 1, got 0",
        ),
        (
            set_in("rungs", 0, "keep_ratio", 0),
            "rungs[0].keep_ratio: expected a number in (0, 1], got 0",
        ),
        (
            set_in("rungs", 0, "keep_ratio", 1.5),
            "rungs[0].keep_ratio: expected a number in (0, 1], got 1.5",
        ),
        (
            set_in("rungs", 0, "patch_size_px", 0),
            "rungs[0].patch_size_px: expected an integer >= 1, got 0",
        ),
        (
            set_in("rungs", 0, "tokens_per_block", "local", [5, 5]),
            "rung 'k100': tokens_per_block: unknown view group 'local'",
        ),
        (
            lambda t: (
                t.update(views=[]),
                [r.update(tokens_per_block={}) for r in t["rungs"]],
            ),
            "views: expected at least one",
        ),
        (
            set_in("hyper_parameters", "lr", "shape", "wave"),
            "hyper-parameter 'lr': unknown shape 'wave'",
        ),
        (
            set_in("hyper_parameters", "lr", "warmup_epochs", -1),
            "hyper_parameters['lr'].warmup_epochs: expected a number in [0, 1000000], got -1",
        ),
        (
            set_in("periodic", [{"graph": EMBED, "every_steps": 0}]),
            "periodic[0].every_steps: expected an integer >= 1, got 0",
        ),
        (
            lambda table: table["hyper_parameters"].pop("lr"),
            "hyper_parameters: 'lr' is missing",
        ),
        (
            lambda t: t.update(ort_training={**t["ort_training"], "refused": None}),
            [
                "ort_training: there is no checkpoint, and no reason why",
                "ort_training: nothing updates the EMA teacher",
            ],
        ),
    ],
)
def test_impossible_values_are_reported(folder, change, wanted):
    edit(folder, change)
    assert problems(folder) == ([wanted] if isinstance(wanted, str) else wanted)
