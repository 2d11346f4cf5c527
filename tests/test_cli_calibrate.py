"""`edge-train calibrate` on the pictures of `digits`."""

import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import test_cli_plan
import test_cli_run
import test_within_budget
from simulated_board import rung_cost

from edge_runtime.calibration import (
    CalibrationOptions,
    load_calibration,
    measure,
)
from edge_runtime.calibration.measure import dense_rung
from edge_runtime.cli.main import main
from edge_runtime.cli.plan import costs_of
from edge_runtime.device import memory_now, require_room
from edge_runtime.engines.gradients import GradientEngine
from edge_runtime.errors import ConfigError
from edge_runtime.package import open_package
from edge_runtime.package.names import PARAM
from edge_runtime.profiling import Environment, save_profile
from edge_runtime.selftest import PACKAGE

SELFTEST = ["calibrate", str(PACKAGE), "digits", "--batches", "2", "--threads", "1"]

plan, package, profile = test_cli_plan.plan, test_cli_plan.package, test_cli_plan.profile
words = test_cli_run.words


@pytest.fixture
def calibrate(tmp_path, monkeypatch, capsys):
    """Runs the command on the self-test package: exit code, stdout, stderr."""
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path / "cache"))

    def run(*more: str) -> tuple[int, str, str]:
        code = main([*SELFTEST, "-o", str(tmp_path / "calibration.json"), *more])
        return code, *capsys.readouterr()

    return run


def test_it_measures_the_initial_state(calibrate, tmp_path) -> None:
    code, text, errors = calibrate()
    assert code == 0
    known = load_calibration(tmp_path / "calibration.json")
    assert list(known.costs) == ["k100", "k075", "k050"]
    assert (known.dense, known.cost_unit, known.batches) == ("k100", "flops", 2)
    (stage,) = known.stages
    assert (stage.step, stage.progress) == (0, 0.0)
    dense, *others = stage.rungs
    assert (dense.squared_bias, dense.bias_noise) == (0.0, 0.0)
    assert all(other.bias_noise > 0 < other.variance for other in others)
    assert "the cost of a step is estimated by its FLOPs" in errors
    assert re.search(r"stage 1 of 1 \(step 0 of \d+\): 2 of 2 batches", errors)
    assert "costs in flops, an estimate" in text
    assert re.search(r"^0% +k100 +1\.00 +0 +0 +1 +1 ", text, re.MULTILINE)
    rows = re.findall(r"^0% +k\d+ +(\S+) +(\S+) +\S+ +(\S+) +(\S+) ", text, re.MULTILINE)
    assert len(rows) == 3
    for cost, bias, variance, error in (map(float, row) for row in rows):
        assert error == pytest.approx(bias + cost * variance, rel=0.03)  # three digits
    assert text.count("smallest") == 1


def test_the_same_command_gives_the_same_numbers(calibrate, tmp_path) -> None:
    """Also with --json, which has the errors beside the file's content."""
    assert calibrate()[0] == 0
    before = load_calibration(tmp_path / "calibration.json")
    code, text, _ = calibrate("--json")  # replaces the file
    table = json.loads(text)
    after = load_calibration(tmp_path / "calibration.json")
    assert code == 0
    assert after.stages == before.stages
    errors = table["stages"][0]["errors"]
    assert errors == {rung: after.error(after.stages[0], rung) for rung in after.costs}
    assert calibrate("--seed", "1")[0] == 0
    assert load_calibration(tmp_path / "calibration.json").stages != before.stages


@pytest.fixture
def known_costs(tmp_path, monkeypatch):
    """A cost profile of the self-test package here, in which k075 did not fit."""
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path / "cache"))
    selftest, here = open_package(PACKAGE), Environment.detect(threads=1)
    costs = []
    for rung, step_s in (("k100", 0.4), ("k075", 1.0), ("k050", 0.1)):
        cost = rung_cost(rung, 0, step_s, 10.0, peak_bytes=None)
        known = selftest.rung(rung)
        tokens = selftest.manifest.token_blocks(known)
        costs.append(replace(cost, token_blocks=tokens, flops=known.flops))
    nothing = dict.fromkeys(("step_s", "step_s_low", "step_s_high", "step_j", "power_w"))
    costs[1] = replace(costs[1], source="does_not_fit", **nothing)
    given = test_within_budget.profile_of(selftest, rungs=tuple(costs))
    profile = replace(given, **here.key._asdict())

    def save(**changes) -> None:
        save_profile(replace(profile, **changes), here.cached_profile_path(selftest))

    save()
    return save, profile


def test_costs_are_those_of_the_profile(calibrate, known_costs, tmp_path) -> None:
    save, profile = known_costs
    code, text, errors = calibrate()
    known = load_calibration(tmp_path / "calibration.json")
    assert (code, known.cost_unit, known.costs) == (0, "seconds", {"k100": 0.4, "k050": 0.1})
    assert "costs in seconds\n" in text
    assert "without rung k075: the cost profile has no time of it" in errors
    assert calibrate("--cost", "energy")[0] == 0
    known = load_calibration(tmp_path / "calibration.json")
    assert (known.cost_unit, known.costs) == ("joules", {"k100": 4.0, "k050": 1.0})
    assert "the largest rung" not in errors
    dark = tuple(replace(cost, step_j=None, power_w=None) for cost in profile.rungs)
    save(rungs=dark)
    code, _, error = calibrate("--cost", "energy")
    assert (code, "the cost profile has no energy" in error) == (4, True)


def test_without_the_cost_of_the_largest_rung_another_is_the_dense_one(
    calibrate, known_costs, tmp_path
) -> None:
    save, profile = known_costs
    dense, tight, small = profile.rungs
    sizes = [
        {"rung": c.rung, "token_blocks": c.token_blocks, "flops": c.flops}
        for c in (dense, tight)
    ]
    save(rungs=(replace(tight, **sizes[0]), replace(dense, **sizes[1]), small))
    code, _, errors = calibrate()
    assert code == 0
    assert load_calibration(tmp_path / "calibration.json").dense == "k075"
    assert "without rung k100: the cost profile has no time of it" in errors
    assert "compared with those of k075, not of the largest rung k100\n" in errors


def test_costs_are_estimated_from_the_whole_ladder(known_costs, tmp_path) -> None:
    """Also from rungs that are not planned, as in a run."""
    selftest, profile = open_package(PACKAGE), known_costs[1]
    unmeasured = replace(profile.rungs[1], source="unmeasured")
    known = replace(profile, rungs=(profile.rungs[0], unmeasured, profile.rungs[2]))
    (cost,) = costs_of(selftest, tmp_path, known, [selftest.rung("k075")])
    assert cost.source == "interpolated"
    assert 0.1 < cost.step_s < 0.4


def test_a_profile_of_another_set_is_not_taken_for_one_of_few_rungs(
    calibrate, known_costs, monkeypatch
) -> None:
    """A run measures only the set that it trains."""
    selftest = open_package(PACKAGE)
    first, *others = selftest.manifest.rungs
    more = [replace(rung, id=f"{rung.id}-b", trained="biases") for rung in (first, *others)]
    grown = replace(selftest.manifest, rungs=(first, *others, *more))
    monkeypatch.setattr(
        "edge_runtime.package.open_package", lambda path: replace(selftest, manifest=grown)
    )
    for cost in ("time", "energy"):
        code, _, error = calibrate("--trained", "biases", "--cost", cost)
        assert code == 4
        assert "has none of the rungs k100-b, k075-b, k050-b. Measure them with" in error


def test_rungs_that_train_other_parameters_are_left_out(
    calibrate, tmp_path, monkeypatch
) -> None:
    selftest = open_package(PACKAGE)
    first, *others = selftest.manifest.rungs
    last = replace(first, id="last", trained="last-1")
    grown = replace(selftest.manifest, rungs=(first, last, *others))
    monkeypatch.setattr(
        "edge_runtime.package.open_package", lambda path: replace(selftest, manifest=grown)
    )
    code, _, errors = calibrate()
    assert (code, "without rung last: it trains last-1, others all\n" in errors) == (0, True)
    assert "last" not in load_calibration(tmp_path / "calibration.json").costs


def test_the_dense_rung_is_the_largest_without_micro_batches() -> None:
    selftest = open_package(PACKAGE)
    first, *others = selftest.manifest.rungs
    parts = replace(first, id="k100-m2", micro_batch=2)
    rungs = (*others, parts, first)
    grown = replace(selftest, manifest=replace(selftest.manifest, rungs=rungs))
    assert dense_rung(grown, rungs) == dense_rung(grown, rungs[::-1]) == first


def test_joules_need_a_profile(calibrate) -> None:
    code, _, error = calibrate("--cost", "energy")
    assert (code, "--cost energy needs a cost profile" in error) == (4, True)


def test_rungs_take_turns_without_an_effect(calibrate, tmp_path, monkeypatch) -> None:
    """Every two batches, with a rest of one: the same as all three at once."""
    assert calibrate("--batches", "3")[0] == 0
    before = load_calibration(tmp_path / "calibration.json")
    monkeypatch.setattr("edge_runtime.calibration.measure._HELD", 2)
    assert calibrate("--batches", "3")[0] == 0
    assert load_calibration(tmp_path / "calibration.json").stages == before.stages


def test_it_measures_every_checkpoint_of_a_run(calibrate, tmp_path, capsys) -> None:
    run = tmp_path / "run"
    options = ["--images", "192", "--rung", "k050", "--checkpoint-every", "0s"]
    assert (
        main(["run", str(PACKAGE), "digits", "-o", str(run), "--epochs", "1", *options]) == 0
    )
    capsys.readouterr()
    assert calibrate("--from", str(run))[0] == 0
    known = load_calibration(tmp_path / "calibration.json")
    assert [stage.step for stage in known.stages] == [0, 2, 3]
    assert [stage.progress for stage in known.stages] == [0.0, 2 / 3, 1.0]
    assert known.run == str(run)
    with (run / "checkpoints/2/state.safetensors").open("r+b") as file:
        file.truncate(5000)
    code, _, errors = calibrate("--from", str(run))
    assert (code, "without a damaged checkpoint" in errors) == (0, True)
    assert len(load_calibration(tmp_path / "calibration.json").stages) == 2
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"total_steps": 2}))
    code, _, error = calibrate("--from", str(run))  # which never had a third step
    assert (code, "has no checkpoint that can be used" in error) == (6, True)
    (run / "run.json").write_text(json.dumps(facts))
    shutil.rmtree(run / "checkpoints")
    code, _, error = calibrate("--from", str(run))
    assert (code, "has no checkpoint that can be used" in error) == (6, True)


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--engine", "ort-training"], 2, "only ort can calibrate"),
        (["--profile", "none.json"], 4, "cost profile none.json does not exist"),
        (["--from", "nowhere"], 6, "nowhere is not a run folder"),
    ],
)
def test_what_cannot_be_measured_is_refused(calibrate, tmp_path, more, code, message) -> None:
    actual, _, error = calibrate(*more)
    assert (actual, message in error) == (code, True), error
    assert not (tmp_path / "calibration.json").exists()


@pytest.mark.parametrize("batches", ["1", "1000001"])
def test_no_more_batches_are_taken_than_the_file_may_have(calibrate, capsys, batches) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        calibrate("--batches", batches)
    assert "expected a whole number from 2 to 1000000" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=f"^batches is {batches}; take 2 to 1000000"):
        measure.calibrate(
            open_package(PACKAGE),
            None,
            [],
            {},
            CalibrationOptions(cost_unit="flops", batches=int(batches)),
        )


def test_gradients_that_are_all_the_same_are_no_measurement(
    calibrate, tmp_path, monkeypatch
) -> None:
    gradient = {"w": np.ones(3, np.float32)}
    monkeypatch.setattr(GradientEngine, "gradient", lambda *_: gradient)
    code, _, error = calibrate()
    assert (code, "there is nothing to compare" in error) == (6, True)
    assert not (tmp_path / "calibration.json").exists()


def test_a_package_whose_steps_cannot_stand_still_is_refused(
    calibrate, tmp_path, monkeypatch
) -> None:
    """In its moment would be a mean over earlier gradients."""
    selftest = open_package(PACKAGE)
    hyper = {k: v for k, v in selftest.manifest.hyper_parameters.items() if k != "beta1"}
    older = replace(selftest, manifest=replace(selftest.manifest, hyper_parameters=hyper))
    monkeypatch.setattr("edge_runtime.package.open_package", lambda path: older)
    code, _, error = calibrate()
    assert (code, "has no hyper-parameter beta1: its steps cannot" in error) == (3, True)
    assert not (tmp_path / "calibration.json").exists()


def test_too_little_memory_is_refused_with_the_need_of_every_rung(
    calibrate, tmp_path, monkeypatch
) -> None:
    needs = []

    def require(action, more_bytes, advice) -> None:
        needs.append((action, more_bytes))
        none = replace(memory_now(), available_bytes=0)
        require_room(action, more_bytes, advice, read_memory=lambda: none)

    monkeypatch.setattr(measure, "require_room", require)
    code, _, error = calibrate()
    assert (code, "a calibration of 3 rungs needs about" in error) == (4, True)
    assert not (tmp_path / "calibration.json").exists()
    monkeypatch.setattr(measure, "_HELD", measure._HELD + 1)
    assert calibrate()[0] == 4
    (_, before), (_, after) = needs
    state = open_package(PACKAGE).initial_state()
    vector_bytes = sum(v.nbytes for name, v in state.items() if name.startswith(PARAM))
    assert after - before == vector_bytes


def test_a_run_of_another_package_is_refused(calibrate, words, tmp_path) -> None:
    assert main(words) == 0
    code, _, error = calibrate("--from", str(tmp_path / "run"))
    assert code == 3
    assert "was trained from another package" in error


def test_other_files_are_not_replaced(calibrate, tmp_path) -> None:
    (tmp_path / "calibration.json").write_text("notes")
    code, _, error = calibrate()
    assert code == 2
    assert "is not a calibration that could be replaced" in error
    assert (tmp_path / "calibration.json").read_text() == "notes"


def test_an_interrupted_one_leaves_no_file(calibrate, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("edge_runtime.cli.calibrate.stop_on_signals", _stopped_after(calls=3))
    code, _, error = calibrate()
    assert code == 130
    assert "an incomplete calibration is not written" in error
    assert not (tmp_path / "calibration.json").exists()


def _stopped_after(calls: int):
    left = iter([False] * calls)
    return lambda notice: nullcontext(lambda: next(left, True))
