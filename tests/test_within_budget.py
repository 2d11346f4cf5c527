"""`train_within`, the library's entry to training within a budget, and docs/library.md."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from measuring_fakes import constant_sensor, environment
from simulated_board import rung_cost
from test_cli_run import write_pictures
from training_fakes import FakeEngine, FakePictures, kinds, stop_after, write_package

import edge_runtime
from edge_runtime import within_budget
from edge_runtime.errors import (
    BudgetError,
    ConfigError,
    DeviceError,
    EngineError,
    StoppedError,
)
from edge_runtime.facts import Budget, CostProfile
from edge_runtime.planning import with_decoding
from edge_runtime.profiling import FORMAT, for_run, load_profile, save_profile
from edge_runtime.records import events, open_run

DOCUMENT = (Path(__file__).parents[1] / "docs/library.md").read_text()
HOUR = Budget(time_s=3600)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package on a machine with a fake engine and sensor, and a separate cache."""
    home = "edge_runtime.profiling.environment"
    monkeypatch.setattr(f"{home}.engine_runtime", lambda *_: "numpy")
    monkeypatch.setattr(f"{home}.open_sensor", lambda board: constant_sensor())
    monkeypatch.setattr(within_budget, "create_engine", lambda *_, **__: FakeEngine())
    monkeypatch.setattr(within_budget, "_IDLE_S", 0.01)
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path / "cache"))
    return write_package(tmp_path / "package")


def profile_of(package, **changes) -> CostProfile:
    here = environment()
    given = {
        "format": FORMAT,
        "created_at": "2030-01-01T00:00:00.000+00:00",
        "package_digest": package.digest,
        "board": here.board.id,
        "power_mode": here.power_mode,
        "engine": here.engine,
        "runtime": here.runtime,
        "threads": None,
        "sensor": "replay",
        "energy_is_estimate": False,
        "idle_w": 2.0,
        "baseline_bytes": 1 << 20,
        "startup_s": 0.01,
        "switch_s": 0.0,
        "checkpoint_s": 0.01,
        "checkpoint_j": 0.1,
        "rungs": (rung_cost("k100", 80, 0.01, 10.0), rung_cost("k050", 48, 0.005, 10.0)),
    }
    return CostProfile(**given | changes)


@pytest.fixture
def measured(package) -> CostProfile:
    """The cached costs of that package."""
    profile = profile_of(package)
    save_profile(profile, environment().cached_profile_path(package))
    return profile


def train_within(package, folder, **changes) -> list[events.Event]:
    return list(
        edge_runtime.train_within(package, FakePictures(), folder, **{"epochs": 2, **changes})
    )


def test_the_example_of_the_document_is_short_and_runs(
    package, measured, tmp_path, monkeypatch, capsys
) -> None:
    (example, *_) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    assert len(example.splitlines()) <= 15
    write_pictures(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["state"].keys() == package.initial_state().keys()
    reports = capsys.readouterr().out.splitlines()
    assert reports[0].startswith("Started(steps=10")
    assert reports[-1].startswith("Finished(steps=10")


def test_the_federated_round_of_the_document_trains_the_parameters(
    package, measured, tmp_path
) -> None:
    (_, example, _) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    names: dict[str, object] = {"edge_runtime": edge_runtime}
    exec(example, names)
    given = {"param.w": np.full(64, 0.25, np.float32)}
    trained = names["fit"](package, FakePictures(), tmp_path / "run", given, HOUR)
    assert trained.keys() == {"param.w"}
    assert not np.array_equal(trained["param.w"], given["param.w"])


def test_a_budget_takes_the_costs_that_were_measured_before(
    package, measured, tmp_path
) -> None:
    yielded = train_within(package, tmp_path / "run", budget=HOUR)
    assert isinstance(yielded[1], events.Planned)
    run = open_run(tmp_path / "run")
    one_picture_bytes = FakePictures().read(0).nbytes  # that decoding takes
    rungs = with_decoding(measured.rungs, one_picture_bytes)
    assert run.info.profile == replace(measured, rungs=rungs)
    assert (run.info.idle_w, run.info.sensor) == (2.0, "replay")
    assert run.info.settings.rungs is None


def test_unknown_costs_are_measured_and_reported(package, tmp_path, monkeypatch) -> None:
    asked = []

    def measure(package, environment, meter, *, report, **options) -> CostProfile:
        asked.append(options)
        profile = profile_of(package)
        report(profile.rungs[0])
        return profile

    monkeypatch.setattr(for_run, "profile_package", measure)
    reports: list[str] = []
    budget = Budget(time_s=3600, memory_bytes=1 << 40)
    train_within(package, tmp_path / "run", budget=budget, report=reports.append)
    beside = asked[0]["memory_bytes"]  # this process counts, too
    assert (1 << 40) - (1 << 30) < beside < (1 << 40) - (10 << 20)
    assert reports[0].startswith("no cost profile of this package on this board yet")
    assert reports[1].split() == [
        "k100",
        "10.0",
        "ms",
        "76.3",
        "MiB",
        "100",
        "mJ",
        "per",
        "step",
    ]
    train_within(package, tmp_path / "again", budget=budget)
    assert len(asked) == 1  # kept


def test_without_a_budget_one_rung_is_trained_and_the_idle_power_measured(
    package, tmp_path
) -> None:
    reports: list[str] = []
    yielded = train_within(package, tmp_path / "run", report=reports.append)
    assert {step.rung for step in kinds(yielded, events.StepRecord)} == {"k100"}
    info = open_run(tmp_path / "run").info
    assert info.settings.rungs == ((1, "k100"),)
    assert info.idle_w == pytest.approx(10.0)
    assert reports == ["measuring the board's idle power for 0.01 s"]
    train_within(package, tmp_path / "other", rungs=["k050"])
    assert open_run(tmp_path / "other").info.settings.rungs == ((1, "k050"),)


def test_only_the_given_rungs_are_candidates(package, measured, tmp_path) -> None:
    yielded = train_within(package, tmp_path / "run", budget=HOUR, rungs=["k050"])
    assert {step.rung for step in kinds(yielded, events.StepRecord)} == {"k050"}
    yielded = train_within(package, tmp_path / "both", rungs=["k100", "k050"])
    assert isinstance(yielded[1], events.Planned)  # by the governor, without a limit
    for rungs, message in ((["k025"], "no rung 'k025'"), ([], "no rung to train")):
        with pytest.raises(ConfigError, match=message):
            train_within(package, tmp_path / "none", rungs=rungs)


def test_a_run_begins_with_the_given_state(package, tmp_path, monkeypatch) -> None:
    state = {name: array + 1 for name, array in package.initial_state().items()}
    seen = []

    class Watched(FakeEngine):
        def open(self, package, state):
            seen.append({name: array.copy() for name, array in state.items()})
            super().open(package, state)

    monkeypatch.setattr(within_budget, "create_engine", lambda *_, **__: Watched())
    with pytest.raises(StoppedError):
        train_within(package, tmp_path / "run", state=state, stop=lambda: True)
    train_within(package, tmp_path / "run", state=state, resume=True)
    train_within(package, tmp_path / "plain")
    for opened, given in zip(seen, (state, state, package.initial_state()), strict=True):
        assert all(np.array_equal(opened[name], array) for name, array in given.items())


def test_a_run_is_not_resumed_with_another_state(package, tmp_path) -> None:
    state = dict(package.initial_state())
    with pytest.raises(StoppedError):
        train_within(package, tmp_path / "run", state=state, stop=stop_after(2))
    other = {**state, "param.w": state["param.w"] + 1}
    for wrong in (other, None):
        with pytest.raises(ConfigError, match=r"other settings:\n  state_sha256: the run has"):
            train_within(package, tmp_path / "run", state=wrong, resume=True)
    assert isinstance(
        train_within(package, tmp_path / "run", state=state, resume=True)[-1], events.Finished
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"param.w": np.zeros(3, np.float32)}, r"param\.w: .*\(64,\)"),
        ({"param.x": np.zeros(64, np.float32)}, r"param\.x: not expected"),
        ({"ema.w": None}, r"ema\.w: missing"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(package, tmp_path, change, message) -> None:
    state = {
        name: array
        for name, array in {**package.initial_state(), **change}.items()
        if array is not None
    }
    with pytest.raises(ConfigError, match=rf"given state does not fit .*:\n  {message}"):
        train_within(package, tmp_path / "run", state=state)
    assert not (tmp_path / "run").exists()


def test_the_run_is_returned(package, tmp_path) -> None:
    def consume(training) -> Iterator[object]:
        run = yield from training
        yield run

    for _ in range(2):  # it is already finished for the second
        training = edge_runtime.train_within(
            package, FakePictures(), tmp_path / "run", epochs=2, resume=True
        )
        *_, finished, run = consume(training)
        assert isinstance(finished, events.Finished)
        assert run.newest_checkpoint().info.step == finished.steps == 10


def test_the_needs_of_a_budget_are_checked_before_anything_is_measured(
    package, measured, tmp_path, monkeypatch
) -> None:
    def measure(*_, **__):
        raise AssertionError("this takes minutes")

    monkeypatch.setattr(for_run, "profile_package", measure)
    with pytest.raises(BudgetError, match="below the package's state"):
        train_within(package, tmp_path / "run", budget=Budget(memory_bytes=100))
    with pytest.raises(DeviceError, match="threads: measured with all processors, here 3"):
        train_within(
            package,
            tmp_path / "run",
            budget=HOUR,
            threads=3,
            profile=environment().cached_profile_path(package),
        )
    monkeypatch.setattr("edge_runtime.profiling.environment.open_sensor", lambda board: None)
    with pytest.raises(DeviceError, match="needs a power sensor"):
        train_within(package, tmp_path / "run", budget=Budget(energy_j=100.0))
    assert not (tmp_path / "run").exists()


def test_the_budget_counts_from_began_s(package, measured, tmp_path) -> None:
    began_s = time.monotonic() - 100.0
    finished = train_within(package, tmp_path / "run", budget=HOUR, began_s=began_s)[-1]
    assert 100.0 < finished.spent.time_s < 160.0


def with_rungs(package, *others):
    """The package with more rungs: (id, trained) each."""
    first, *_ = package.manifest.rungs
    more = [replace(first, id=name, trained=trained) for name, trained in others]
    manifest = replace(package.manifest, rungs=(*package.manifest.rungs, *more))
    return replace(package, manifest=manifest)


@pytest.fixture
def profiles(monkeypatch) -> list[list[str]]:
    """Rungs that were measured, by call; one that the memory is too small for is `tight`."""
    calls: list[list[str]] = []

    def measure(package, environment, meter, *, rungs, **_) -> CostProfile:
        calls.append([rung.id for rung in rungs])
        tokens = package.manifest.token_blocks
        costs = [rung_cost(rung.id, tokens(rung), 0.01, 10.0) for rung in rungs]
        costs = [
            replace(cost, source="does_not_fit", step_s=None) if cost.rung == "tight" else cost
            for cost in costs
        ]
        return profile_of(package, rungs=tuple(costs))

    monkeypatch.setattr(for_run, "profile_package", measure)
    return calls


@pytest.fixture
def limited(monkeypatch) -> list[FakeEngine]:
    """Engines that cannot train k100, as they are created."""
    made: list[FakeEngine] = []

    def create(*_, **__) -> FakeEngine:
        made.append(FakeEngine(unsupported=["k100"]))
        return made[-1]

    monkeypatch.setattr(within_budget, "create_engine", create)
    return made


def test_rungs_that_the_engine_cannot_train_are_left_out(
    package, limited, profiles, tmp_path
) -> None:
    reported: list[str] = []
    found = train_within(package, tmp_path / "run", budget=HOUR, report=reported.append)
    assert {step.rung for step in kinds(found, events.StepRecord)} == {"k050"}
    reason = "engine fake cannot train it: rung k100 is too much for it"
    assert reported[0] == f"without rung k100: {reason}"
    assert profiles == [["k050"]]
    assert len(limited) == 1
    train_within(package, tmp_path / "again", budget=HOUR)
    assert len(profiles) == 1  # the profile has all that this engine can train
    skipped = {"rungs": ["k100", "k050"], "skip_unsupported": True}
    found = train_within(package, tmp_path / "skipped", **skipped)
    assert {step.rung for step in kinds(found, events.StepRecord)} == {"k050"}


@pytest.mark.parametrize("rungs", [["k100"], ["k050", "k100"], None])
def test_a_rung_that_the_engine_cannot_train_is_refused_at_once(
    package, limited, profiles, tmp_path, rungs
) -> None:
    message = r"engine fake cannot train .*: rung k100 .* Use engine ort, or rung k050\."
    with pytest.raises(EngineError, match=message):
        train_within(package, tmp_path / "run", rungs=rungs)
    assert profiles == []
    assert not (tmp_path / "run").exists()


def test_rungs_that_train_different_parameters_are_not_mixed(
    package, profiles, tmp_path
) -> None:
    package = with_rungs(package, ("last", "last-1"), ("small", "last-1"))
    message = r"different parameters .*: k050 \(all\), last \(last-1\)\. Choose"
    with pytest.raises(ConfigError, match=message):
        train_within(package, tmp_path / "run", rungs=["k050", "last"], budget=HOUR)
    assert profiles == []
    found = train_within(package, tmp_path / "run", rungs=["last", "small"])
    assert kinds(found, events.StepRecord)[0].rung in ("last", "small")


def test_only_the_ladder_of_the_candidates_is_measured_and_kept(
    package, profiles, tmp_path
) -> None:
    package = with_rungs(package, ("last", "last-1"), ("small", "last-1"))
    train_within(package, tmp_path / "1", rungs=["small"], budget=HOUR)
    train_within(package, tmp_path / "2", rungs=["last"], budget=HOUR)  # kept
    train_within(package, tmp_path / "3", rungs=["k050"], budget=HOUR)
    train_within(package, tmp_path / "4", rungs=["last", "small"])
    train_within(package, tmp_path / "5", budget=HOUR)  # both are
    assert profiles == [["last", "small"], ["k100", "k050"]]
    kept = load_profile(environment().cached_profile_path(package))
    assert {cost.rung for cost in kept.rungs} == {"k100", "k050", "last", "small"}
    used = open_run(tmp_path / "5").info.profile
    assert [cost.rung for cost in used.rungs] == ["k100", "k050"]


def test_a_ladder_of_which_a_rung_does_not_fit_is_not_kept(
    package, profiles, tmp_path
) -> None:
    package = with_rungs(package, ("tight", "all"))
    for folder in ("1", "2"):
        train_within(package, tmp_path / folder, budget=HOUR)
    assert profiles == [["k100", "k050", "tight"]] * 2


def test_a_given_profile_is_used_for_a_single_rung(package, tmp_path) -> None:
    path = tmp_path / "mine.json"
    save_profile(profile_of(package, idle_w=7.0), path)
    found = train_within(package, tmp_path / "run", rungs=["k050"], profile=path)
    assert isinstance(found[1], events.Planned)
    info = open_run(tmp_path / "run").info
    assert (info.idle_w, [cost.rung for cost in info.profile.rungs]) == (7.0, ["k050"])
    save_profile(profile_of(package, board="another"), path)
    with pytest.raises(DeviceError, match="board: measured with another"):
        train_within(package, tmp_path / "other", rungs=["k050"], profile=path)
    save_profile(profile_of(package, rungs=(rung_cost("k100", 80, 0.01, 10.0),)), path)
    with pytest.raises(DeviceError, match=r"mine\.json lacks k050\. Measure again with"):
        train_within(package, tmp_path / "other", rungs=["k050"], profile=path)
