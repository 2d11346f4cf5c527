"""The file of a calibration: what is written is read, everything else is refused."""

import json
import math
import os
from dataclasses import replace

import pytest
from calibrations import calibration_of, rising, stage

from edge_runtime.calibration import load_calibration, save_calibration
from edge_runtime.errors import ConfigError, RecordsError, StorageError
from edge_runtime.facts import Calibration
from edge_runtime.schema import unstructure


def refusal(path, package=None) -> str:
    with pytest.raises((RecordsError, ConfigError)) as caught:
        load_calibration(path, package)
    assert str(path) in str(caught.value)
    return str(caught.value)


def written(tmp_path, change=lambda table: None):
    """The file of `rising`, changed."""
    table = unstructure(rising())
    change(table)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(table))
    return path


def test_what_is_written_is_read(tmp_path) -> None:
    path = tmp_path / "folder" / "calibration.json"
    save_calibration(rising(), path)
    assert load_calibration(path) == rising()


@pytest.mark.parametrize("variance", [math.inf, math.nan, 1e31])
def test_what_would_not_be_read_is_not_written(tmp_path, variance) -> None:
    path = tmp_path / "calibration.json"
    endless = calibration_of(stage(0.5, k100=(0.0, 1.0), k050=(0.1, variance)))
    message = r"is not written: 1 problem\(s\)\n  stages\[0\]\.rungs\[1\]\.variance: expected"
    with pytest.raises(RecordsError, match=message):
        save_calibration(endless, path)
    backwards = replace(rising(), stages=rising().stages[::-1])
    with pytest.raises(RecordsError, match="their progress does not ascend"):
        save_calibration(backwards, path)
    assert not path.exists()


def test_of_many_problems_the_first_are_shown(tmp_path) -> None:
    def spoil(table):
        table["stages"] *= 20  # each twice in disorder
        for index in range(40):
            table["stages"][index] = table["stages"][index] | {"rungs": []}

    problems = refusal(written(tmp_path, spoil)).splitlines()
    assert problems[0].endswith("more than 20 problem(s)")
    assert len(problems) == 21


def test_a_folder_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*calibration\.json"):
        save_calibration(rising(), tmp_path / "file" / "calibration.json")


def test_the_error_is_its_formula() -> None:
    """bias^2 + cost * variance, over the dense rung's variance."""
    known = rising()
    first, last = known.stages
    assert known.relative_cost("k050") == 0.5
    assert known.error(first, "k050") == pytest.approx((0.1 + 0.5 * 1.0) / 1.0)
    assert known.error(last, "k050") == pytest.approx((4.0 + 0.5 * 2.4) / 2.0)
    assert known.error(first, "k100") == known.error(last, "k100") == 1.0


def squares(table, index, rung=0):
    return table["stages"][index]["rungs"][rung]


PROBLEMS = {
    "an unknown unit": (
        lambda table: table.update(cost_unit="euros"),
        "cost_unit: 'euros' is unknown; known are seconds, joules, flops",
    ),
    "no dense rung": (lambda table: table.update(dense="k999"), "dense: 'k999' is not one"),
    "no stage": (lambda table: table.update(stages=[]), "stages: the list is empty"),
    "stages in disorder": (
        lambda table: table["stages"].reverse(),
        "stages: their progress does not ascend",
    ),
    "a stage twice": (
        lambda table: table["stages"].append(table["stages"][1]),
        "stages: their progress does not ascend",
    ),
    "a missing rung": (
        lambda table: table["stages"][1]["rungs"].pop(),
        "stages[1].rungs: expected one of each of costs: 'k100, k050'",
    ),
    "a rung twice": (
        lambda table: squares(table, 0, 1).update(rung="k100"),
        "stages[0].rungs: expected one of each",
    ),
    "a dense rung with a bias": (
        lambda table: squares(table, 0).update(squared_bias=0.5),
        "stages[0].rungs: the dense rung has a squared bias of 0.5, not 0",
    ),
    "a dense rung without variance": (
        lambda table: squares(table, 1).update(variance=0),
        "stages[1].rungs: the dense rung has no variance",
    ),
    "a negative square": (
        lambda table: squares(table, 0, 1).update(squared_bias=-1),
        "stages[0].rungs[1].squared_bias: expected a number in [0, 1e+30], got -1",
    ),
    "a number without end": (
        lambda table: squares(table, 0, 1).update(variance=10**400),
        "stages[0].rungs[1].variance: expected a finite number",
    ),
    "more than all progress": (
        lambda table: table["stages"][1].update(progress=1.5),
        "stages[1].progress: expected a number in [0, 1], got 1.5",
    ),
    "a cost of nothing": (
        lambda table: table["costs"].update(k050=0),
        "costs['k050']: expected a number",
    ),
    "a single batch": (
        lambda table: table.update(batches=1),
        "batches: expected an integer in [2, 1000000], got 1",
    ),
    "another key": (lambda table: table.update(more=1), "unknown key more"),
    "another format": (lambda table: table.update(format=2), "format 2 is unknown"),
    "an endless format": (lambda table: table.update(format=10**19), "is unknown"),
    "no table": (lambda table: table.update(stages={"a": 1}), "stages: expected a list"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_no_measurement_gives_is_refused(tmp_path, name) -> None:
    change, message = PROBLEMS[name]
    assert message in refusal(written(tmp_path, change))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"NaN",
        b'{"format": NaN}',
        b"[" * 100_000,
        b'{"format": "\\ud800"}',
        b"\xff\xfe",
        b'{"format": 1' + b"0" * 5000 + b"}",
    ],
)
def test_what_is_no_calibration_is_refused(tmp_path, content) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(content)
    assert "edge-train calibrate PKG DATA" in refusal(path)


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "/proc/self/environ", "folder"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind) -> None:
    path = tmp_path / "calibration.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(kind)
    assert "cannot be read" in refusal(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    assert "does not exist. Measure one with" in refusal(tmp_path / "none.json")


def test_a_calibration_of_another_package_is_refused(tmp_path, package) -> None:
    save_calibration(rising(), path := tmp_path / "calibration.json")
    assert "is of another package: its digest is 'abababababab'" in refusal(path, package)
    own: Calibration = rising(package_digest=package.digest)
    save_calibration(own, path)
    assert load_calibration(path, package) == own
    stages = (stage(0.5, k100=(0, 1.0), k999=(0, 1.0)),)
    foreign = calibration_of(
        *stages, costs={"k100": 1.0, "k999": 1.0}, package_digest=package.digest
    )
    save_calibration(replace(foreign, run="x"), path)
    assert "costs: 'k999': not among the rungs" in refusal(path, package)
