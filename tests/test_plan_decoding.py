"""`plan PKG DATA` and `run` expect the same memory for decoding, with the decoders' code."""

import json

from test_cli_plan import package, profile
from test_cli_run import write_pictures
from test_within_budget import HOUR, profile_of, train_within
from test_within_budget import package as trained_package

from edge_runtime import data, within_budget
from edge_runtime.cli.main import main
from edge_runtime.profiling import save_profile
from edge_runtime.records import open_run

__all__ = ["package", "profile", "trained_package"]  # the fixtures
MIB = 1 << 20


def test_plan_counts_decoding_and_the_decoders_code(
    package, profile, tmp_path, capsys, monkeypatch
) -> None:
    write_pictures(tmp_path / "pictures")
    save_profile(profile, tmp_path / "profile.json")
    monkeypatch.setattr(data, "decoding_bytes", lambda *_, **__: 7 * MIB)
    monkeypatch.setattr(data, "decoder_code_bytes", lambda source: 24 * MIB)
    words = ["plan", str(package.path), str(tmp_path / "pictures"), "--json"]
    assert main([*words, "--profile", str(tmp_path / "profile.json")]) == 0
    rungs = json.loads(capsys.readouterr().out)["alone"]
    measured = {cost.rung: cost.peak_bytes for cost in profile.rungs}
    assert {rung["rung"]: rung["peak_bytes"] - measured[rung["rung"]] for rung in rungs} == {
        "k100": 31 * MIB,
        "k050": 31 * MIB,
    }


def test_run_counts_decoding_and_the_decoders_code(
    trained_package, tmp_path, monkeypatch
) -> None:
    measured = profile_of(trained_package)
    save_profile(measured, tmp_path / "profile.json")
    monkeypatch.setattr(within_budget, "decoding_bytes", lambda *_, **__: 7 * MIB)
    monkeypatch.setattr(within_budget, "decoder_code_bytes", lambda source: 24 * MIB)
    train_within(
        trained_package, tmp_path / "run", budget=HOUR, profile=tmp_path / "profile.json"
    )
    used = open_run(tmp_path / "run").info.profile
    pairs = zip(used.rungs, measured.rungs, strict=True)
    assert {cost.rung: cost.peak_bytes - before.peak_bytes for cost, before in pairs} == {
        "k100": 31 * MIB,
        "k050": 31 * MIB,
    }
