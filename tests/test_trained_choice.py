"""Which set of trained parameters a plan takes: the first that the budget allows."""

import json
import re

import pytest
import test_within_budget
from hypothesis import given
from hypothesis import strategies as st
from simulated_board import rung_cost
from test_cli_run import write_pictures
from test_within_budget import profile_of, train_within, with_rungs
from training_fakes import kinds, stop_after

from edge_runtime.cli.main import main
from edge_runtime.errors import BudgetError, ConfigError, DeviceError, StoppedError
from edge_runtime.facts import Budget
from edge_runtime.planning import first_feasible
from edge_runtime.profiling import save_profile
from edge_runtime.records import events, open_run
from edge_runtime.records.event_text import event_text

package = test_within_budget.package
profiles = test_within_budget.profiles
SLOW_S, FAST_S = 30.0, 0.02
BUDGET = Budget(time_s=60.0)  # for ten steps


@pytest.fixture
def sets(package):
    """Three sets: of `all` the budget allows no plan, of the others it does."""
    return with_rungs(package, ("last", "last-1"), ("small", "biases"))


@pytest.fixture
def costs(sets, tmp_path):
    """A profile of them: only the first set is slow."""
    slow = [rung_cost(*rung, SLOW_S, 10.0) for rung in (("k100", 80), ("k050", 48))]
    fast = [rung_cost(rung, 80, FAST_S, 10.0) for rung in ("last", "small")]
    save_profile(profile_of(sets, rungs=(*slow, *fast)), tmp_path / "costs.json")
    return tmp_path / "costs.json"


def trained_rungs(yielded) -> set[str]:
    return {step.rung for step in kinds(yielded, events.StepRecord)}


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_the_first_feasible_set_is_taken(feasible) -> None:
    names, asked = [f"last-{n}" for n in range(len(feasible))], []

    def plan(trained: str) -> str:
        asked.append(trained)
        if not feasible[names.index(trained)]:
            raise BudgetError(f"{trained} takes too long")
        return f"plan of {trained}"

    first = feasible.index(True) if any(feasible) else len(names)
    reasons = {name: f"{name} takes too long" for name in names[:first]}
    if first < len(names):
        assert first_feasible(names, plan) == (f"plan of {names[first]}", reasons)
    else:
        with pytest.raises(BudgetError) as caught:
            first_feasible(names, plan)
        one = reasons[names[0]]
        each = "".join(f"\n  {name}: {reason}" for name, reason in reasons.items())
        several = f"no set of trained parameters has a feasible plan:{each}"
        assert str(caught.value) == (one if len(names) == 1 else several)
    assert asked == names[: first + 1]


def test_a_set_that_cannot_be_planned_hides_no_refusal() -> None:
    errors = {"all": BudgetError("too slow"), "last-1": DeviceError("no costs")}

    def plan(trained: str) -> str:
        raise errors[trained]

    with pytest.raises(BudgetError, match=r":\n  all: too slow\n  last-1: no costs$"):
        first_feasible(["all", "last-1", "biases"], plan)
    with pytest.raises(DeviceError, match=r"^no costs$"):
        first_feasible(["last-1", "all"], plan)


def test_a_run_takes_the_first_set_that_the_budget_allows(sets, costs, tmp_path) -> None:
    yielded = train_within(sets, tmp_path / "run", budget=BUDGET, profile=costs)
    assert trained_rungs(yielded) == {"last"}
    (planned,) = kinds(yielded, events.Planned)
    assert planned.refused_sets.keys() == {"all"}
    reason = planned.refused_sets["all"]
    assert reason.startswith("no plan of 2 epochs (10 steps) fits --time 1min: --time is too")
    assert event_text(planned, tmp_path).endswith(f"; not all: {reason}")
    assert [event.event for event in open_run(tmp_path / "run").events()][1] == planned
    assert [cost.rung for cost in open_run(tmp_path / "run").info.profile.rungs] == ["last"]


def test_a_set_that_is_preferred_and_feasible_is_taken(sets, profiles, tmp_path) -> None:
    yielded = train_within(sets, tmp_path / "run", budget=BUDGET)
    assert trained_rungs(yielded) <= {"k100", "k050"}
    (planned,) = kinds(yielded, events.Planned)
    assert planned.refused_sets == {}
    assert profiles == [["k100", "k050"]]  # the other sets are not measured


def test_a_set_that_is_needed_is_measured_then(sets, profiles, tmp_path, monkeypatch) -> None:
    few_bytes = Budget(memory_bytes=1 << 36)
    tokens = type(sets.manifest).token_blocks
    monkeypatch.setattr(
        type(sets.manifest),
        "token_blocks",  # the fake's memory is in proportion
        lambda self, rung: tokens(self, rung) * (10**6 if rung.trained == "all" else 1),
    )
    yielded = train_within(sets, tmp_path / "run", budget=few_bytes)
    assert trained_rungs(yielded) == {"last"}
    assert profiles == [["k100", "k050"], ["last"]]


def test_a_resumed_run_keeps_its_set(sets, costs, tmp_path) -> None:
    stopped = {"budget": BUDGET, "profile": costs, "stop": stop_after(4)}
    with pytest.raises(StoppedError):
        train_within(sets, tmp_path / "run", **stopped)
    ample = {"budget": Budget(time_s=1e6), "profile": costs, "resume": True}
    with pytest.raises(StoppedError):  # unless another set is asked for
        train_within(sets, tmp_path / "run", **ample, rungs=["k050"], stop=stop_after(3))
    assert open_run(tmp_path / "run").steps()[-1].rung == "k050"
    yielded = train_within(sets, tmp_path / "run", **ample)
    assert kinds(yielded, events.Resumed)
    assert trained_rungs(yielded) == {"last"}
    assert len(open_run(tmp_path / "run").steps()) == 10


def test_auto_epochs_take_the_first_set_of_which_an_epoch_fits(sets, costs, tmp_path) -> None:
    yielded = train_within(
        sets, tmp_path / "run", budget=Budget(time_s=20.0), profile=costs, epochs=None
    )
    assert trained_rungs(yielded) == {"last"}
    assert open_run(tmp_path / "run").info.settings.epochs > 2


def test_a_set_can_be_asked_for(sets, costs, tmp_path) -> None:
    asked = {"trained": "biases", "profile": costs}
    yielded = train_within(sets, tmp_path / "run", budget=BUDGET, **asked)
    assert trained_rungs(yielded) == {"small"}
    yielded = train_within(sets, tmp_path / "alone", trained="last-1")
    assert trained_rungs(yielded) == {"last"}
    with pytest.raises(BudgetError, match=r"^no plan of 2 epochs"):
        train_within(sets, tmp_path / "all", budget=BUDGET, **{**asked, "trained": "all"})
    with pytest.raises(ConfigError, match="trains 'last-9'; its rungs train all, last-1, bia"):
        train_within(sets, tmp_path / "none", budget=BUDGET, trained="last-9")
    with pytest.raises(ConfigError, match=r"k100 \(all\) cannot be trained with --trained bi"):
        train_within(sets, tmp_path / "none", rungs=["k100"], trained="biases")


def test_no_set_is_feasible(sets, costs, tmp_path) -> None:
    with pytest.raises(BudgetError) as caught:
        train_within(sets, tmp_path / "run", budget=Budget(time_s=1e-3), profile=costs)
    first, *reasons = str(caught.value).splitlines()
    assert first == "no set of trained parameters has a feasible plan:"
    assert [line.split(":")[0].strip() for line in reasons] == ["all", "last-1", "biases"]
    assert not (tmp_path / "run").exists()


@pytest.fixture
def opened(sets, tmp_path, monkeypatch):
    """The command line with this package and pictures: words of `run`."""
    write_pictures(tmp_path / "pictures")
    monkeypatch.setattr("edge_runtime.package.open_package", lambda path: sets)
    where = [str(tmp_path / name) for name in ("package", "pictures", "run")]
    return ["run", *where[:2], "-o", where[2], "--epochs", "1"]


@pytest.mark.parametrize(
    ("flags", "rung"),
    [
        (["--trained", "last-1"], "last"),
        (["--trained", "biases", "--keep-ratio", "1"], "small"),
        (["--trained", "last-1", "--rung", "last"], "last"),
        (["--trained", "all"], "k100"),
    ],
)
def test_the_flag_chooses_the_set(opened, tmp_path, flags, rung) -> None:
    assert main([*opened, *flags]) == 0
    assert trained_rungs(open_run(tmp_path / "run").steps()) == {rung}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trained", "lora-4"], "trains 'lora-4'; its rungs train all, last-1, biases"),
        (["--trained", "lora-4", "--keep-ratio", "0.5"], "trains 'lora-4'"),
        (["--trained", "last-1", "--keep-ratio", "0.5"], "keep-ratio 0.5 is not on the ladd"),
        (["--trained", "last-1", "--rung", "k100"], "k100 (all) cannot be trained with"),
    ],
)
def test_wrong_sets_are_refused(opened, tmp_path, capsys, flags, message) -> None:
    assert main([*opened, *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def planned(monkeypatch, capsys, sets, costs, *flags) -> tuple[int, str, str]:
    monkeypatch.setattr("edge_runtime.package.open_package", lambda path: sets)
    words = ["plan", str(sets.path), "--images", "20", "--epochs", "2"]
    code = main([*words, "--profile", str(costs), "--time", "60s", *flags])
    return code, *capsys.readouterr()


def test_a_plan_shows_the_set_and_why_no_other(sets, costs, monkeypatch, capsys) -> None:
    code, text, error = planned(monkeypatch, capsys, sets, costs)
    assert (code, error) == (0, "")
    assert re.search(r"^trained +last-1$", text, re.M)
    assert re.search(r"^not all +no plan of 2 epochs \(10 steps\) fits --time ", text, re.M)
    assert re.search(r"^plan +10 steps on last$", text, re.M)
    code, text, _ = planned(monkeypatch, capsys, sets, costs, "--json")
    facts = json.loads(text)
    assert facts["trained"] == "last-1"
    assert facts["refused_sets"].keys() == {"all"}
    code, text, _ = planned(monkeypatch, capsys, sets, costs, "--trained", "biases", "--json")
    assert json.loads(text)["trained"] == "biases"
    assert json.loads(text)["refused_sets"] == {}
    code, _, error = planned(monkeypatch, capsys, sets, costs, "--trained", "all")
    assert code == 7
    assert "edge-train: no plan of 2 epochs" in error
    code, _, error = planned(monkeypatch, capsys, sets, costs, "--trained", "none")
    assert code == 2
    assert "trains 'none'" in error


def test_a_plan_with_costs_of_the_first_set_alone_names_its_nearest_budget(
    sets, tmp_path, monkeypatch, capsys
) -> None:
    slow = [rung_cost(*rung, SLOW_S, 10.0) for rung in (("k100", 80), ("k050", 48))]
    save_profile(profile_of(sets, rungs=tuple(slow)), tmp_path / "first.json")
    code, _, error = planned(monkeypatch, capsys, sets, tmp_path / "first.json")
    assert code == 7
    assert "  all: no plan of 2 epochs (10 steps) fits --time" in error
    assert "The nearest budget that works is --time" in error
    assert "  last-1: cost profile" in error
    assert "has none of the rungs last. Measure them with" in error
