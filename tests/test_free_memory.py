"""The memory that the machine or a container leaves to a run limits its rungs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, repeat

import pytest
from measuring_fakes import environment
from simulated_board import rung_cost
from test_within_budget import HOUR, package, profile_of, train_within
from training_fakes import kinds, stop_after

from edge_runtime import within_budget
from edge_runtime.data import FrameSource
from edge_runtime.device import memory_now
from edge_runtime.errors import BudgetError, StoppedError
from edge_runtime.facts import Budget, CostProfile
from edge_runtime.profiling import free_memory, save_profile
from edge_runtime.records import events, open_run
from edge_runtime.records.event_text import event_text
from edge_runtime.training import selector

__all__ = ["package"]  # the fixture


def leave(monkeypatch, room_bytes: int) -> None:
    """Let the machine leave only that memory to a run whose largest rung needs 1 GiB."""

    def now():
        here = memory_now()
        available_bytes = max(0, room_bytes - here.rss_bytes)
        return replace(here, available_bytes=available_bytes, limit_bytes=room_bytes)

    monkeypatch.setattr(free_memory, "predicted_peak_bytes", lambda *_: 1 << 30)
    for module in (free_memory, selector):
        monkeypatch.setattr(module, "memory_now", now)


def tight_profile(package) -> CostProfile:
    """The large rung needs 1 GiB, the small one 0.5."""
    large = rung_cost("k100", 80, 0.01, 10.0, peak_bytes=1 << 30)
    small = rung_cost("k050", 48, 0.005, 10.0, peak_bytes=1 << 29)
    return profile_of(package, rungs=(large, small))


@pytest.mark.parametrize(
    "flags",
    [
        {"budget": Budget(memory_bytes=2 << 30)},
        {"budget": HOUR},
        {"rungs": ["k100", "k050"]},
        {},
    ],
    ids=["--memory", "--time", "--keep-ratio auto", "none"],
)
def test_the_memory_that_is_free_limits_the_rungs(
    package, tmp_path, monkeypatch, flags
) -> None:
    save_profile(tight_profile(package), environment().cached_profile_path(package))
    leave(monkeypatch, 700 << 20)
    yielded = train_within(package, tmp_path / "run", **flags)
    assert {step.rung for step in kinds(yielded, events.StepRecord)} == {"k050"}
    (planned,) = kinds(yielded, events.Planned)
    reasons = {verdict.rung: verdict.reason for verdict in planned.plan.verdicts}
    assert reasons["k100"] == "needs 1.1 GiB, over the 700.0 MiB free here"


@pytest.mark.parametrize(
    ("decoding_mib", "rung"), [(100, "k100"), (300, "k050"), (900, "k050")], ids=str
)
@pytest.mark.parametrize("budget", [Budget(memory_bytes=1300 << 20), Budget()], ids=str)
def test_decoding_takes_memory_from_the_rungs(
    package, tmp_path, monkeypatch, budget, decoding_mib, rung
) -> None:
    """Of 1.3 GiB: the rungs were measured on tiny pictures, with 1 GiB and 0.5."""
    save_profile(tight_profile(package), environment().cached_profile_path(package))
    reports: list[str] = []
    leave(monkeypatch, 1300 << 20)
    monkeypatch.setattr(within_budget, "decoding_bytes", lambda *_, **__: decoding_mib << 20)
    yielded = train_within(package, tmp_path / "run", budget=budget, report=reports.append)
    assert {step.rung for step in kinds(yielded, events.StepRecord)} == {rung}
    said = [report for report in reports if report.startswith("decoding these pictures")]
    if decoding_mib == 900:  # 1300 MiB less the reserve of 5 % and the smallest rung
        assert "memory for 726.1 MiB: pictures that need more are skipped" in said[0]
    elif said:  # not where the largest rung fits without a limit
        assert said == [
            f"decoding these pictures takes up to {decoding_mib}.0 MiB beside a rung"
        ]


def test_a_stream_that_cannot_be_decoded_in_the_memory_is_refused(
    package, tmp_path, monkeypatch
) -> None:
    save_profile(tight_profile(package), environment().cached_profile_path(package))
    leave(monkeypatch, 1300 << 20)
    monkeypatch.setattr(within_budget, "decoding_bytes", lambda *_, **__: 900 << 20)
    monkeypatch.setattr(free_memory, "PictureSource", FrameSource)
    with pytest.raises(BudgetError, match=r"k050 needs 1\.4 GiB, over the 1\.3 GiB free here"):
        train_within(package, tmp_path / "run", budget=HOUR)


def test_a_run_on_one_rung_leaves_what_is_free_to_decoding(
    package, tmp_path, monkeypatch
) -> None:
    """One large picture among thousands would end it in a small container."""
    asked = []

    def refuse(job):
        asked.append(job.options)
        raise StoppedError("enough")

    monkeypatch.setattr(within_budget, "open_loop", refuse)
    for room_mib in (1300, 8000):
        leave(monkeypatch, room_mib << 20)
        with pytest.raises(StoppedError, match="enough"):
            train_within(package, tmp_path / "run", rungs=["k100"])
    assert [options.decoding_limit_bytes for options in asked] == [276 << 20, None]


def test_a_rung_for_which_too_little_memory_is_free_is_refused(
    package, tmp_path, monkeypatch
) -> None:
    save_profile(tight_profile(package), environment().cached_profile_path(package))
    leave(monkeypatch, 300 << 20)
    for rungs, message in (
        (["k100"], "k100 needs 1.1 GiB, over the 300.0 MiB free here. Export"),
        (None, "k050 needs 537.6 MiB, over the 300.0 MiB free here. Export"),
    ):
        with pytest.raises(BudgetError, match=message):
            train_within(package, tmp_path / "run", rungs=rungs)
    assert not (tmp_path / "run").exists()


def test_a_run_is_continued_as_it_began_whatever_memory_is_free(
    package, tmp_path, monkeypatch
) -> None:
    save_profile(tight_profile(package), environment().cached_profile_path(package))
    with monkeypatch.context() as patch:
        leave(patch, 700 << 20)
        with pytest.raises(StoppedError):
            train_within(package, tmp_path / "run", stop=stop_after(3))
    yielded = train_within(package, tmp_path / "run", resume=True)
    assert isinstance(yielded[-1], events.Finished)
    assert open_run(tmp_path / "run").info.settings.rungs is None


def room(monkeypatch, rooms_bytes: Iterator[int], rss_bytes: int) -> None:
    """Readings of memory: what the run may hold, while it holds that much."""
    here = memory_now()

    def now():
        available_bytes = next(rooms_bytes) - rss_bytes
        return replace(
            here,
            rss_bytes=rss_bytes,
            gpu_bytes=None,
            card_bytes=None,
            available_bytes=available_bytes,
            limit_bytes=None,
        )

    monkeypatch.setattr(selector, "memory_now", now)


def decided(rooms_mib: Sequence[int], monkeypatch) -> list[str]:
    """What a run on one rung, which holds 300 MiB, does as memory is read once a second."""
    room(monkeypatch, (mib << 20 for mib in rooms_mib), 300 << 20)
    chosen = selector.ScheduledSelector(((1, "k100"),))
    return [chosen.decide(second, float(second)).kind for second in range(len(rooms_mib))]


def test_a_run_on_one_rung_ends_before_other_programs_take_its_memory(monkeypatch) -> None:
    assert decided([600, 600, 304, 303, 302], monkeypatch) == ["keep"] * 3 + ["stop"] * 2
    # Taken at 15 MiB/s: it ends while 30 MiB are left, which saving needs.
    growing = [420, 405, 390, 375, 360, 345, 330, 315]
    assert decided(growing, monkeypatch) == ["keep"] * 6 + ["stop"] * 2


def test_readings_vary_and_a_container_may_be_just_large_enough(monkeypatch) -> None:
    assert decided([600, 301, 600, 600, 301, 600, 310], monkeypatch) == ["keep"] * 7
    assert decided([303] * 8, monkeypatch) == ["keep"] * 8


def test_the_end_of_a_run_for_memory_has_its_reason(package, tmp_path, monkeypatch) -> None:
    rooms = chain([600 << 20] * 2, repeat(301 << 20))  # read twice before a step
    room(monkeypatch, rooms, 300 << 20)
    monkeypatch.setattr(selector, "_READ_EVERY_S", 0.0)
    monkeypatch.setattr(selector, "SHORT_S", 0.0)
    finished = train_within(package, tmp_path / "run", rungs=["k100"])[-1]
    assert (finished.stopped_by, finished.steps) == ("memory", 1)
    assert (
        finished.reason
        == "other programs leave 301.0 MiB of memory to it, and it holds 300.0 MiB"
    )
    assert finished.checkpoint == "checkpoints/1"
    assert "ended by its memory limit (other programs leave 301" in event_text(finished)
