"""`edge-train plan`: from the flags to the table, and all refusals."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_board import rung_cost
from spoilt_package import edit
from test_planning_document import keys as documented
from training_fakes import write_package

from edge_runtime import device
from edge_runtime.cli.main import main
from edge_runtime.device import load_board, power_mode
from edge_runtime.facts import CostProfile
from edge_runtime.package import open_package
from edge_runtime.profiling import cached_profile_path, key_of, save_profile

ROOT = Path(__file__).parents[1]
COSTS = (
    rung_cost("k100", 400, 0.2, 10.0, peak_bytes=400 << 20),
    rung_cost("k050", 200, 0.11, 9.8, peak_bytes=300 << 20),
)


def no_sensor(board):
    raise AssertionError("a plan measures nothing")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of 4 pictures per step, on a machine with a fake engine and its own cache."""
    home = "edge_runtime.profiling.environment"
    monkeypatch.setattr(f"{home}.engine_runtime", lambda *_: "numpy")
    monkeypatch.setattr(f"{home}.open_sensor", no_sensor)
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path / "cache"))
    folder = write_package(tmp_path / "package").path

    def fit(table: dict) -> None:
        for rung, cost, tokens in zip(
            table["rungs"], COSTS, ([25, 25], [12, 13]), strict=True
        ):
            rung |= {"flops": cost.flops, "tokens_per_block": {"global": tokens}}

    edit(folder, fit)
    return open_package(folder)


@pytest.fixture
def profile(package):
    """A profile of that package on this machine."""
    return CostProfile(
        format=1,
        created_at="2030-01-01T00:00:00+00:00",
        package_digest=package.digest,
        board=load_board(None).id,
        power_mode=power_mode(),
        engine="ort",
        runtime="numpy",
        threads=None,
        sensor="fake",
        energy_is_estimate=False,
        idle_w=3.0,
        baseline_bytes=1 << 26,
        startup_s=1.0,
        switch_s=0.0,
        checkpoint_s=0.0,
        checkpoint_j=0.0,
        rungs=COSTS,
    )


@pytest.fixture
def plan(package, profile, tmp_path, capsys):
    """Runs the command on a measured package: exit code, stdout, stderr."""

    def run(*words: str, images: int | None = 40, change=None) -> tuple[int, str, str]:
        path = tmp_path / "profile.json"
        save_profile(replace(profile, **change or {}), path)
        given = [] if images is None else ["--images", str(images)]
        code = main(
            [
                "plan",
                str(package.path),
                "--profile",
                str(path),
                "--epochs",
                "10",
                *given,
                *words,
            ]
        )
        return code, *capsys.readouterr()

    return run


def test_the_table_shows_every_rung(plan, tmp_path, profile) -> None:
    code, text, errors = plan("--energy", "170J", "--time", "1h")
    assert (code, errors) == (0, "")
    # 1 s of start at 10 W, then 44 * 1.078 J and 56 * 2 J
    assert text.splitlines() == [
        f"profile     {tmp_path}/profile.json, of 2030-01-01T00:00:00+00:00 on "
        f"{profile.board} with ort (numpy)",
        "budget      --energy 170J --time 1h",
        "run         10 epochs of 40 pictures: 100 steps",
        "plan        44 steps on k050, then 56 steps on k100",
        "takes       17 s; 169.4 J; 9.94 W on average; 400.0 MiB at most",
        "limited by  --energy",
        "",
        "rung  token-blocks  step      energy  power    memory     steps  why",
        "k100  400           200.0 ms  2.00 J  10.00 W  400.0 MiB  56     56% of the steps: "
        "the most that --energy allows",
        "k050  200           110.0 ms  1.08 J  9.80 W   300.0 MiB  44     44% of the steps: "
        "the most that --energy allows",
        "",
        "all steps on  time  energy   memory     fits  epochs that fit",
        "k100          21 s  210.0 J  400.0 MiB  no    7",
        "k050          12 s  117.8 J  300.0 MiB  yes   14",
        "the plan's    17 s  169.4 J  400.0 MiB  yes   auto: 8",
    ]


def test_estimates_are_marked(plan) -> None:
    interpolated = replace(COSTS[1], source="interpolated", peak_bytes=None)
    interpolated = replace(interpolated, predicted_peak_bytes=300 << 20)
    rungs = (COSTS[0], interpolated)
    _, text, _ = plan("--energy", "1kJ", change={"energy_is_estimate": True, "rungs": rungs})
    assert re.search(r"takes .* J \(estimate\); .* W on average \(estimate\)", text)
    assert re.search(
        r"k100 .* 2\.00 J \(estimate\) +10\.00 W \(estimate\) +400\.0 MiB +100", text
    )
    assert re.search(r"k050 .* 110\.0 ms \(interpolated\) .* 300\.0 MiB \(predicted\)", text)


def test_rungs_between_measured_ones_are_filled_in(plan, package, monkeypatch) -> None:
    between = replace(
        package.manifest.rungs[0],
        id="k075",
        flops=300_000,
        tokens_per_block={"global": (12, 12)},
    )
    manifest = replace(package.manifest, rungs=(*package.manifest.rungs, between))
    grown = replace(package, manifest=manifest)
    monkeypatch.setattr("edge_runtime.package.open_package", lambda path: grown)
    empty = replace(
        COSTS[0], rung="k075", token_blocks=192, flops=300_000, source="unmeasured"
    )
    empty = replace(empty, step_s=None, step_j=None, power_w=None)
    _, text, _ = plan("--time", "1h", change={"rungs": (*COSTS, empty)})
    assert "155.0 ms (interpolated)" in text


def test_a_profile_of_another_ladder_is_refused(plan, package, monkeypatch) -> None:
    """As the cache has one of a run that trained its last block alone."""
    last = replace(package.manifest.rungs[0], id="last", trained="last-1")
    manifest = replace(package.manifest, rungs=(*package.manifest.rungs, last))
    grown = replace(package, manifest=manifest)
    monkeypatch.setattr("edge_runtime.package.open_package", lambda path: grown)
    code, _, error = plan("--time", "1h", change={"rungs": (replace(COSTS[0], rung="last"),)})
    assert code == 4
    assert "has none of the rungs k100, k050. Measure them with `edge-train profile" in error
    code, text, _ = plan(
        "--time", "1h", change={"rungs": (*COSTS, replace(COSTS[0], rung="last"))}
    )
    assert code == 0
    assert "last" not in text.partition("token-blocks")[2]


def test_a_rung_that_the_package_does_not_have_is_refused(plan) -> None:
    foreign = replace(COSTS[0], rung="k999")
    code, _, error = plan("--time", "1h", change={"rungs": (*COSTS, foreign)})
    assert code == 4
    assert "rungs: measured with k999, here k100, k050" in error


def test_unknown_values_are_marked(plan) -> None:
    dark = tuple(replace(cost, step_j=None, power_w=None) for cost in COSTS)
    change = {"rungs": dark, "checkpoint_j": None, "sensor": None}
    code, text, _ = plan("--time", "1h", change=change)
    assert code == 0
    assert re.search(r"k100 .* unknown +unknown +400\.0 MiB", text)
    assert re.search(r"takes +21 s; 400\.0 MiB at most\n", text)


def test_without_a_budget_nothing_limits(plan) -> None:
    _, text, _ = plan()
    assert "budget      none\n" in text
    assert "limited by  nothing\n" in text


def test_a_temperature_is_left_to_the_run(plan) -> None:
    _, text, _ = plan("--temperature", "80C", "--power", "8W")
    assert "note        a temperature is not planned; the run watches it, and pauses\n" in text
    assert re.search(r"takes +29 s, of which 8\.\d\d s idle to keep --power; ", text)


def test_json_has_everything(plan, package, profile) -> None:
    code, text, _ = plan("--energy", "170J", "--json")
    facts = json.loads(text)
    assert code == 0
    assert set(facts) == documented("key of `plan --json`")
    assert facts["budget"] == {
        "memory_bytes": None,
        "energy_j": 170.0,
        "time_s": None,
        "power_w": None,
        "temperature_c": None,
    }
    assert (facts["epochs"], facts["images"], facts["batch_size"]) == (10, 40, 4)
    assert facts["energy_is_estimate"] is False
    assert facts["profile"]["board"] == profile.board
    assert facts["profile"]["package_digest"] == package.digest
    plan_facts = facts["plan"]
    assert plan_facts["steps"] == sum(part["steps"] for part in plan_facts["segments"]) == 100
    assert plan_facts["energy_j"] <= 170
    assert plan_facts["binding"] == ["energy"]
    assert {"rung", "step_s", "step_j", "reason", "steps", "peak_bytes", "source"} <= set(
        plan_facts["verdicts"][0]
    )


def test_the_profile_is_read_from_the_cache(package, profile, capsys) -> None:
    key = key_of(replace(profile, cpus=device.usable_cpus()))
    path = cached_profile_path(package.digest, key)
    path.parent.mkdir(parents=True)
    save_profile(profile, path)
    assert main(["plan", str(package.path), "--images", "40", "--time", "1h"]) == 0
    assert f"profile     {path}, of" in capsys.readouterr().out


def test_without_a_profile_the_command_is_named(package, profile, capsys) -> None:
    assert main(["plan", str(package.path), "--images", "40"]) == 4
    assert (
        f"no cost profile of {package.path} on {profile.board} with ort (numpy) "
        f"on cpu yet. Measure it with `edge-train profile {package.path}`"
    ) in capsys.readouterr().err


def board_file(tmp_path, name: str):
    """A board profile like the one of this machine, under another name."""
    here = load_board(None).id
    text = (ROOT / "profiles" / f"{here}.toml").read_text()
    path = tmp_path / f"{name}.toml"
    path.write_text(text.replace(f'"{here}"', f'"{name}"', 1))
    return path


def test_a_profile_of_another_machine_needs_its_board(plan, tmp_path) -> None:
    there = {
        "board": "over-there",
        "engine": "ort-training",
        "power_mode": "15W",
        "threads": 6,
    }
    code, _, error = plan("--time", "1h", change=there)
    assert code == 4
    for name in ("board: measured with over-there", "power mode", "engine", "threads"):
        assert name in error
    board = board_file(tmp_path, "over-there")
    code, text, _ = plan("--time", "1h", "--board", str(board), change=there)
    assert code == 0
    assert "on over-there with ort-training (numpy)" in text
    other = board_file(tmp_path, "elsewhere")
    code, _, error = plan("--time", "1h", "--board", str(other), change=there)
    assert code == 4
    assert "board: measured with over-there, here elsewhere" in error


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["--energy", "100J"],
            7,
            r"no plan of 10 epochs \(100 steps\) fits --energy 100J: --energy is too little\. "
            r"The nearest budget that works is --energy 117\.\dJ\. This one gives "
            r"5 epochs with `--epochs auto`; on one rung alone: k100 4, k050 8\.$",
        ),
        (
            ["--memory", "200MiB", "--energy", "100J"],
            7,
            r"--memory and --energy are each too little\. .* --memory 315\.\dMiB --energy 117",
        ),
        (["--memory", "100MiB"], 7, r"nearest budget that works is --memory 315\.\dMiB\.$"),
        (
            ["--memory", "1kB"],
            7,
            r"--memory 1kB is below the package's state of 1\.0 KiB",
        ),
        (["--energy", "0J"], 2, r"--energy is 0; a limit must be above zero"),
        (["--keep-ratio", "0.3"], 2, r"keep-ratio 0\.3 is not on the ladder of"),
        (["--rung", "k030"], 2, r"has no rung 'k030'"),
    ],
)
def test_an_infeasible_budget_is_refused(plan, words, code, message) -> None:
    exit_code, text, error = plan(*words)
    assert (exit_code, text) == (code, "")
    assert re.search(message, error)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--energy", "20"], "argument --energy: '20' is not an energy: it has no unit"),
        (["--time=-2h"], "argument --time: '-2h' is not a duration: it is negative"),
        (["--memory", "1.5G"], "the unit G is unknown"),
        (["--epochs", "0"], "from 1 to 1000000000, got '0'; or write `auto`"),
        (["--epochs", "Auto"], "from 1 to 1000000000, got 'Auto'; or write `auto`"),
    ],
)
def test_wrong_flags_exit_2(plan, words, message, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        plan(*words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--keep-ratio", "0.5"), ("--rung", "k050")])
def test_only_what_is_named_is_planned(plan, words) -> None:
    everything = json.loads(plan("--epochs", "auto", "--time", "60s", "--json")[1])
    code, out, _ = plan(*words, "--epochs", "auto", "--time", "60s", "--json")
    table = json.loads(out)
    assert (code, [rung["rung"] for rung in table["alone"]]) == (0, ["k050"])
    (alone,) = (rung for rung in everything["alone"] if rung["rung"] == "k050")
    assert table["epochs"] == alone["epochs"] > everything["epochs"]


def test_a_plan_needs_the_length_of_an_epoch(plan) -> None:
    code, _, error = plan(images=None)
    assert code == 2
    assert "give DATA, whose pictures are counted, or --images N" in error


def test_the_pictures_of_an_epoch_can_be_counted(package, profile, tmp_path, capsys) -> None:
    path = tmp_path / "profile.json"
    save_profile(profile, path)
    words = ["plan", str(package.path), "digits", "--profile", str(path), "--json"]
    assert main([*words, "--epochs", "2"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["images"], facts["plan"]["steps"]) == (1412, 2 * 1415 // 4 - 1)
    assert main([*words, "--images", "40"]) == 0  # of them
    assert json.loads(capsys.readouterr().out)["plan"]["steps"] == 100 * 10


def test_fewer_pictures_than_a_batch_are_refused(plan) -> None:
    code, _, error = plan(images=3)
    assert code == 6
    assert "a batch of 4 is larger than an epoch of 3 picture(s)" in error


def test_energy_that_was_never_measured_is_refused(plan) -> None:
    dark = tuple(replace(cost, step_j=None, power_w=None) for cost in COSTS)
    code, _, error = plan("--energy", "1kJ", change={"rungs": dark, "checkpoint_j": None})
    assert code == 4
    assert "--energy cannot be planned: the cost profile has no energy" in error


def test_a_profile_of_another_package_is_refused(plan) -> None:
    code, _, error = plan(change={"package_digest": "cd" * 32})
    assert code == 4
    assert "package: measured with cdcdcdcdcdcd, here " in error


def test_a_damaged_profile_is_refused(package, tmp_path, capsys) -> None:
    path = tmp_path / "profile.json"
    path.write_text('{"format": 1')
    words = ["plan", str(package.path), "--images", "40", "--profile"]
    assert main([*words, str(path)]) == 6
    assert f"cost profile {path} cannot be read" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "none.json")]) == 4
    assert "none.json does not exist" in capsys.readouterr().err


def test_a_plan_knows_the_limit_of_the_container(plan, monkeypatch) -> None:
    here = replace(device.memory_now(), limit_bytes=350 << 20)
    monkeypatch.setattr(device, "memory_now", lambda: here)
    code, text, _ = plan()
    assert code == 0
    assert "needs 420.0 MiB, over the 350.0 MiB free here" in text


def test_limits_that_are_not_reached_are_named_as_such(plan) -> None:
    _, text, _ = plan("--time", "100h")
    assert "limited by  none of the limits: all steps keep the most\n" in text
