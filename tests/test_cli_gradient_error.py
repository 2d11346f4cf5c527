"""`plan` and `run` with `--objective gradient-error`."""

import json

import pytest
import test_cli_plan
import test_cli_run
from calibrations import rising

from edge_runtime.calibration import save_calibration
from edge_runtime.cli.main import main
from edge_runtime.package import open_package
from edge_runtime.records import events, open_run

plan, package, profile = test_cli_plan.plan, test_cli_plan.package, test_cli_plan.profile
words = test_cli_run.words


def calibrated(package, tmp_path) -> str:
    """The file of a calibration of the package with rungs k100 and k050."""
    path = tmp_path / "calibration.json"
    save_calibration(rising(package_digest=package.digest), path)
    return str(path)


def test_a_plan_by_gradient_errors(plan, package, tmp_path) -> None:
    flags = ["--objective", "gradient-error", "--calibration", calibrated(package, tmp_path)]
    code, text, _ = plan("--time", "1h", *flags)
    assert code == 0
    assert "plan            20 steps on k050, then 80 steps on k100\n" in text
    assert f"gradient error  by {flags[-1]}, 0.96 of the dense rung's on average\n" in text
    assert "limited by      none of the limits: it is the best\n" in text
    assert text.endswith("  yes   not planned\n")
    code, text, _ = plan("--time", "17s", "--json", *flags)
    table = json.loads(text)
    assert table["calibration"] == flags[-1]
    assert table["plan"]["binding"] == ["time"]
    assert table["plan"]["gradient_error"] > 0.96
    counts = {part["rung"]: part["steps"] for part in table["plan"]["segments"]}
    assert counts == {"k050": 45, "k100": 55}  # 1 s of start, 45 * 0.11 s, 55 * 0.2 s
    code, _, error = plan("--time", "5s", *flags)
    assert (code, "reduce them with --epochs" in error) == (7, True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--objective", "gradient-error"], "and --calibration FILE are given together"),
        (["--calibration", "FILE"], "and --calibration FILE are given together"),
        (
            ["--objective", "gradient-error", "--calibration", "FILE", "--epochs", "auto"],
            "--epochs auto cannot be combined with --objective gradient-error",
        ),
    ],
)
def test_flags_that_contradict_each_other(plan, package, tmp_path, flags, message) -> None:
    path = calibrated(package, tmp_path)
    flags = [path if flag == "FILE" else flag for flag in flags]
    code, _, error = plan("--time", "1h", *flags)
    assert (code, message in error) == (2, True), error


def test_a_run_without_a_budget_takes_the_best_rung_of_each_stage(
    words, tmp_path, capsys
) -> None:
    path = calibrated(open_package(tmp_path / "package"), tmp_path)
    flags = ["--objective", "gradient-error", "--calibration", path]
    assert main([*words, *flags]) == 0
    run = open_run(tmp_path / "run")
    assert [record.rung for record in run.each_step()] == ["k050"] * 2 + ["k100"] * 8
    assert run.info.settings.rungs == ((1, "k050"), (3, "k100"))
    capsys.readouterr()
    assert main([*words, *flags, "--rung", "k050"]) == 2
    assert "leave out --rung and --keep-ratio" in capsys.readouterr().err


def test_a_profile_makes_a_run_without_a_budget_a_governed_one(words, tmp_path) -> None:
    path = calibrated(open_package(tmp_path / "package"), tmp_path)
    flags = ["--objective", "gradient-error", "--calibration", path]
    profile = str(test_cli_run.written_profile(tmp_path))
    assert main([*words, *flags, "--profile", profile]) == 0
    run = open_run(tmp_path / "run")
    (planned,) = (e.event for e in run.events() if isinstance(e.event, events.Planned))
    assert [part.rung for part in planned.plan.segments] == ["k050", "k100"]
    assert run.info.settings.rungs is None
    assert {cost.rung for cost in run.info.profile.rungs} == {"k050", "k100"}
