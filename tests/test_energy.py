"""The integration of energy, against slow definitions."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.device.energy import (
    Account,
    EnergyIntegral,
    EnergyLedger,
    History,
    PowerSegment,
    Track,
)

LONGEST_S = 1.0

# Times in eighths and powers in whole watts: sums are exact, and many times coincide.
waits_s = st.integers(1, 24).map(lambda n: n / 8)
watts = st.integers(0, 60).map(float)
readings = st.lists(st.tuples(waits_s, watts), min_size=1, max_size=20)


def at_times(raw: list[tuple[float, float]]) -> list[tuple[float, float]]:
    times = np.cumsum([wait_s for wait_s, _ in raw])
    return [(float(t_s), power_w) for t_s, (_, power_w) in zip(times, raw, strict=True)]


def energy_slowly(known: list[tuple[float, float]], from_s: float, to_s: float) -> float:
    """The area under straight lines between readings, level before the first and the last."""
    times, powers = zip(*known, strict=True)
    grid = sorted({from_s, to_s, *(t for t in times if from_s < t < to_s)})
    heights = np.interp(grid, times, powers)
    return float(np.sum(np.diff(grid) * (heights[1:] + heights[:-1]) / 2))


def gaps_slowly(known: list[tuple[float, float]], from_s: float, to_s: float) -> list[float]:
    """Length of each span without readings inside the window, level ends included."""
    times = [t for t, _ in known]
    inner = [(a, b, b - a) for a, b in pairwise(times)]
    lead, tail = (from_s, times[0]), (times[-1], to_s)
    edges = [(a, b, min(b, to_s) - max(a, from_s)) for a, b in (lead, tail)]
    return [
        min(b, to_s) - max(a, from_s)
        for a, b, length_s in [*inner, *edges]
        if length_s > LONGEST_S and min(b, to_s) > max(a, from_s)
    ]


def new_ledger(*, counts_energy: bool = False, history_s: float = 1e6) -> EnergyLedger:
    return EnergyLedger(
        ("A", "B"),
        ("A", "B"),
        counts_energy=counts_energy,
        longest_s=LONGEST_S,
        history_s=history_s,
    )


def filled(
    ledger: EnergyLedger, known: list[tuple[float, float]], from_s: float, to_s: float
) -> Account:
    """An account open from `from_s` to `to_s` while the readings come in."""
    account = None
    for t_s, value in known:
        if account is None and t_s > from_s:
            account = ledger.open(from_s)
        if t_s <= to_s:
            ledger.add(t_s, {"A": value, "B": 0.0})
    return account or ledger.open(from_s)


@settings(max_examples=200)
@given(raw=readings, from_s=waits_s, length_s=st.integers(1, 200).map(lambda n: n / 8))
def test_a_window_is_the_area_under_its_readings(raw, from_s: float, length_s: float) -> None:
    known, to_s = at_times(raw), from_s + length_s
    ledger = new_ledger()
    account = filled(ledger, known, from_s, to_s)
    amount = ledger.total(account, to_s)
    past = [(t, w) for t, w in known if t <= to_s]
    has_segment = len(past) > 1 and past[-1][0] > from_s
    if not has_segment and not (past and to_s - past[-1][0] <= LONGEST_S):
        assert amount.energy_j is None
        assert amount.gap_s == length_s
        return
    assert amount.energy_j == pytest.approx(energy_slowly(past, from_s, to_s), rel=1e-9)
    if has_segment:
        gaps_s = gaps_slowly(past, from_s, to_s)
        assert amount.gap_s == pytest.approx(sum(gaps_s))
        assert max(gaps_s, default=0.0) <= amount.largest_gap_s
    if from_s >= past[0][0]:
        assert ledger.between(from_s, to_s) == pytest.approx(amount.energy_j, rel=1e-9)


@given(raw=st.lists(st.tuples(waits_s, watts), min_size=2, max_size=20), data=st.data())
def test_parts_add_up_to_the_whole(raw, data) -> None:
    known = at_times(raw)
    ledger = new_ledger()
    whole = filled(ledger, known, known[0][0], known[-1][0])
    cuts = sorted(
        data.draw(st.lists(st.floats(known[0][0], known[-1][0]), min_size=1, max_size=4))
    )
    edges = [known[0][0], *cuts, known[-1][0]]
    parts = [ledger.between(a, b) for a, b in pairwise(edges)]
    assert sum(parts) == pytest.approx(ledger.total(whole, known[-1][0]).energy_j, abs=1e-6)


@given(raw=readings, from_s=waits_s, length_s=st.integers(1, 200).map(lambda n: n / 8))
def test_counted_energy_is_the_difference_of_counts(
    raw, from_s: float, length_s: float
) -> None:
    """Between two counts energy flows evenly; outside as in the nearest such time."""
    known, to_s, counts_j = at_times(raw), from_s + length_s, []
    joules = 0.0
    for (t_s, power_w), before_s in zip(known, [0.0, *[t for t, _ in known]], strict=False):
        joules += power_w * (t_s - before_s)
        counts_j.append((t_s, joules))
    ledger = new_ledger(counts_energy=True)
    account = filled(ledger, counts_j, from_s, to_s)
    past = [(t, w) for t, w in known if t <= to_s]
    got_j = ledger.total(account, to_s).energy_j
    if len(past) < 2:
        assert got_j is None
    elif past[-1][0] > from_s:
        steps = [(a, b, w) for (a, _), (b, w) in pairwise(past)]
        steps[0] = (min(from_s, steps[0][0]), *steps[0][1:])
        steps[-1] = (steps[-1][0], max(to_s, steps[-1][1]), steps[-1][2])
        expected_j = sum(w * max(0.0, min(b, to_s) - max(a, from_s)) for a, b, w in steps)
        assert got_j == pytest.approx(expected_j, rel=1e-9, abs=1e-9)


def total_j(ledger: EnergyLedger, account: Account, at_s: float) -> float | None:
    return ledger.total(account, at_s).energy_j


def test_a_total_with_an_unknown_part_is_unknown() -> None:
    ledger = new_ledger()
    account = ledger.open(0.0)
    ledger.add(0.0, {"A": 2.0, "B": 1.0})
    assert ledger.add(1.0, {"A": 2.0, "B": None}) == ({"A": 2.0, "B": None}, None)
    assert (account.samples, account.missed) == (1, 1)
    ledger.add(4.0, {"A": 2.0, "B": 3.0})
    assert ledger.rails_j(account, 4.0) == {"A": 8.0, "B": 8.0}
    amount = ledger.total(account, 4.0)
    assert amount == (16.0, 4.0, 4.0)  # from 3 W to 5 W on a straight line, all of it a gap


def test_a_rail_that_was_never_read_is_unknown() -> None:
    ledger = new_ledger()
    account = ledger.open(0.0)
    for t_s in (0.0, 1.0):
        ledger.add(t_s, {"A": 2.0})
    assert ledger.rails_j(account, 1.0) == {"A": 2.0, "B": None}
    assert total_j(ledger, account, 1.0) is None


def test_a_restarted_counter_gives_no_negative_energy() -> None:
    ledger = new_ledger(counts_energy=True)
    account = ledger.open(0.0)
    for t_s, joules in ((0.0, 100.0), (1.0, 110.0), (2.0, None), (4.0, 3.0), (5.0, 23.0)):
        ledger.add(t_s, {"A": joules, "B": 0.0})
    # 10 W for a second, from 10 W to 20 W over three, 20 W for the last
    amount = ledger.total(account, 5.0)
    assert amount.energy_j == pytest.approx(10.0 + 45.0 + 20.0)
    assert amount.gap_s == 3.0


def test_a_reading_that_is_not_later_is_dropped() -> None:
    ledger = new_ledger()
    account = ledger.open(0.0)
    ledger.add(1.0, {"A": 5.0, "B": 0.0})
    for t_s in (1.0, 0.5):
        assert ledger.add(t_s, {"A": 900.0, "B": 0.0}) is None
    ledger.add(2.0, {"A": 5.0, "B": 0.0})
    assert total_j(ledger, account, 2.0) == 10.0


def test_a_window_inside_a_gap_is_unknown_and_one_around_it_is_not() -> None:
    ledger = new_ledger()
    around = ledger.open(0.0)
    ledger.add(0.0, {"A": 4.0, "B": 0.0})
    inside = ledger.open(10.0)
    assert total_j(ledger, inside, 20.0) is None
    ledger.close(inside)
    ledger.add(30.0, {"A": 8.0, "B": 0.0})
    assert ledger.total(around, 30.0) == (180.0, 30.0, 30.0)
    assert ledger.between(10.0, 20.0) == pytest.approx(60.0)  # in hindsight it is known


def test_the_last_power_holds_for_a_moment_only() -> None:
    ledger = new_ledger()
    ledger.add(0.0, {"A": 4.0, "B": 0.0})
    account = ledger.open(0.5)
    assert ledger.total(account, 1.0) == (2.0, 0.0, 1.0)
    assert total_j(ledger, account, 1.1) is None
    assert ledger.between(0.5, 1.0) == 2.0
    assert ledger.between(0.5, 1.1) is None


def test_the_peak_is_that_of_the_readings_inside() -> None:
    integral, track = EnergyIntegral(1.0, longest_s=1.0), Track()
    for t_s, power_w in ((0.0, 90.0), (2.0, 10.0), (3.0, 12.0)):
        for segment in track.power(t_s, power_w):
            integral.add(segment)
    assert integral.peak_w == pytest.approx(
        50.0
    )  # half-way down from 90 W as the window begins


def test_history_drops_old_readings_and_reports_it() -> None:
    ledger = new_ledger(history_s=10.0)
    for t_s in range(101):
        ledger.add(float(t_s), {"A": float(t_s), "B": 0.0})
    assert ledger.between(95.0, 97.0) == pytest.approx(192.0)
    assert ledger.between(2.0, 4.0) is None
    assert ledger.between(85.0, 95.0) is None
    assert ledger.between(90.0, 100.0) == pytest.approx(950.0)


def test_history_is_bounded() -> None:
    history = History(10.0)
    for t_s in range(1000):
        history.add(PowerSegment(t_s, t_s + 1.0, 1.0, 1.0))
    assert len(history._numbers) <= 4 * 14
    assert [segment.start_s for segment in history.within(997.5, 999.0)] == [997.0, 998.0]
