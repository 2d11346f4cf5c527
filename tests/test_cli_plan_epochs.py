"""`edge-train plan`: epochs that the budget decides, and the comparison of rungs."""

import json
import re
from dataclasses import replace

import pytest
import test_cli_plan
from test_cli_plan import COSTS, board_file

from edge_runtime import device

package, profile, plan = test_cli_plan.package, test_cli_plan.profile, test_cli_plan.plan


def test_the_budget_decides_the_number_of_epochs(plan) -> None:
    code, text, _ = plan("--energy", "170J", "--epochs", "auto")
    assert code == 0
    assert "run         8 epochs of 40 pictures: 80 steps; 9 would keep fewer" in text
    facts = json.loads(plan("--energy", "170J", "--epochs", "auto", "--json")[1])
    assert (facts["epochs"], facts["auto_epochs"], facts["plan"]["steps"]) == (8, 8, 80)
    facts = json.loads(plan("--energy", "170J", "--json")[1])
    assert (facts["epochs"], facts["auto_epochs"]) == (10, 8)
    assert json.loads(plan("--memory", "1GB", "--json")[1])["auto_epochs"] is None


def test_without_an_end_the_budget_cannot_decide(plan) -> None:
    code, _, error = plan("--memory", "1GB", "--power", "9W", "--epochs", "auto")
    assert code == 2
    assert "--epochs auto needs --time or --energy: without one of them, any number" in error


def test_less_than_one_epoch_is_refused_with_the_nearest_budget(plan) -> None:
    code, _, error = plan("--energy", "15J", "--epochs", "auto")
    assert code == 7
    assert re.search(
        r"no plan of 1 epoch \(10 steps\) fits --energy 15J: --energy is too little\. The "
        r"nearest budget that works is --energy 20\.\d+J\. This one allows 4 steps, less than "
        r"an epoch of 10: shorten it with --images\.$",
        error,
    )


def test_every_rung_alone_is_compared_with_the_plan(plan) -> None:
    killed = replace(COSTS[0], source="does_not_fit", step_s=None, step_j=None)
    facts = json.loads(
        plan("--time", "15s", "--json", change={"rungs": (killed, COSTS[1])})[1]
    )
    without, k050 = facts["alone"]
    assert without == {
        "rung": "k100",
        "time_s": None,
        "energy_j": None,
        "peak_bytes": 400 << 20,
        "fits": False,
        "epochs": 0,
    }
    assert k050 == pytest.approx(k050 | {"time_s": 12.0, "energy_j": 117.8, "epochs": 12})
    assert k050["fits"] is True
    assert json.loads(plan("--json")[1])["alone"][0]["epochs"] is None
    assert re.search(r"\nk100 +21 s .* yes +any\n", plan()[1])


def test_a_rung_that_cannot_be_used_is_compared_all_the_same(plan, monkeypatch) -> None:
    dark = replace(COSTS[0], step_j=None, power_w=None)
    facts = json.loads(
        plan("--energy", "170J", "--json", change={"rungs": (dark, COSTS[1])})[1]
    )
    first = facts["alone"][0]
    assert first == first | {"time_s": 21.0, "energy_j": None, "fits": False, "epochs": 0}
    here = replace(device.memory_now(), limit_bytes=350 << 20)
    monkeypatch.setattr(device, "memory_now", lambda: here)
    assert re.search(r"\nk100 +21 s +210\.0 J +400\.0 MiB +no +0\n", plan("--time", "1h")[1])


def test_waiting_for_the_mean_power_is_part_of_a_rung_alone(plan) -> None:
    facts = json.loads(plan("--power", "8W", "--json")[1])
    # 210 J in 21 s; above 3 W idle, 8 W leave 5 W for 147 J
    assert facts["alone"][0]["time_s"] == pytest.approx(147 / 5)
    # Without idle power it cannot be kept: what the rung takes is shown all the same.
    facts = plan("--power", "9.9W", "--json", change={"idle_w": None, "startup_s": 0.0})[1]
    first, second = json.loads(facts)["alone"]
    assert (first["fits"], first["time_s"], second["fits"]) == (False, 20.0, True)


def test_what_a_unit_was_given_in_is_repeated(plan) -> None:
    _, text, _ = plan("--memory", "2GB", "--energy", "20Wh", "--time", "90min")
    assert "budget      --memory 2GB --energy 20Wh --time 90min\n" in text
    _, text, _ = plan("--memory", "350MB")
    assert "needs 440.4 MB, over --memory 350MB" in text
    code, _, error = plan("--energy", "0.01Wh")
    assert code == 7
    assert "The nearest budget that works is --energy 0.03274Wh." in error


def test_unused_processors_are_named(plan, tmp_path) -> None:
    board = ["--board", str(board_file(tmp_path, "over-there"))]
    there = {"board": "over-there", "threads": 1, "cpus": 4.0}
    _, text, _ = plan("--time", "1h", *board, change=there)
    line = "1 of 4 usable processors train; without --threads all of them do"
    assert f"advice      {line}" in text
    for change in ({"threads": 4}, {"threads": None}, {"cpus": None}):
        text = plan("--time", "1h", "--json", *board, change=there | change)[1]
        assert json.loads(text)["advice"] == []
