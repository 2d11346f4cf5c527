"""Where commands may write, and what can be a path."""

import argparse
import os
import shutil
from pathlib import Path

import pytest
from report_runs import gap_run
from test_cli_run import words
from training_fakes import FakeEngine, run_to_the_end, write_package

from edge_runtime.cli.main import main
from edge_runtime.cli.paths import any_path, path_text, require_output
from edge_runtime.errors import ConfigError, StorageError
from edge_runtime.records import open_run
from edge_runtime.storage import new_folder, write_file

__all__ = ["words"]  # the fixture


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return gap_run().write(tmp_path / "run")


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["steps.jsonl", "run.json", "checkpoints/new.html", "events.jsonl", "power.jsonl"]
)
def test_a_report_replaces_no_record(run: Path, name: str, capsys) -> None:
    before = content(run)
    assert main(["report", str(run), "-o", str(run / name)]) == 2
    assert f"{run / name} is a place for records of the run" in capsys.readouterr().err
    assert content(run) == before


def test_a_link_to_a_run_is_no_other_place(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run / "checkpoints")
    with pytest.raises(ConfigError, match="is a place for records of the run"):
        require_output(tmp_path / "link" / "page.html", "a page", lambda _: True)


def test_a_report_replaces_its_page_and_nothing_else(
    run: Path, tmp_path: Path, capsys
) -> None:
    page, other = run / "report.html", tmp_path / "index.html"
    for _ in range(2):
        assert main(["report", str(run), "-o", str(page)]) == 0
    other.write_text("<title>mine</title>")
    assert main(["report", str(run), "-o", str(other)]) == 2
    assert "exists and is not a page of `edge-train report`" in capsys.readouterr().err
    assert other.read_text() == "<title>mine</title>"


def test_tables_replace_tables_and_nothing_else(run: Path, tmp_path: Path, capsys) -> None:
    tables = tmp_path / "tables"
    for _ in range(2):
        assert main(["report", str(run), "--csv", str(tables)]) == 0
    before = content(tables)
    (tables / "stages.csv").write_text("city,people\nOslo,700000\n")
    (tables / "runs.csv").write_text("old")
    assert main(["report", str(run), "--csv", str(tables)]) == 2
    assert "is not a table of `edge-train report`" in capsys.readouterr().err
    changed = {path.name for path, text in content(tables).items() if before[path] != text}
    assert changed == {"stages.csv", "runs.csv"}
    assert main(["report", str(run), "--csv", str(run / "checkpoints")]) == 2


def test_only_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("page")
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    for place in (Path(os.devnull), tmp_path, tmp_path / "link", tmp_path / "fifo"):
        with pytest.raises(ConfigError, match="exists and is not a file"):
            require_output(place, "a page", lambda _: True)
    require_output(tmp_path / "target", "a page", lambda _: True)
    with pytest.raises(ConfigError, match="is not a page that could be replaced"):
        require_output(tmp_path / "target", "a page", lambda _: False)
    (tmp_path / "empty").touch()
    require_output(tmp_path / "empty", "a page", lambda _: False)


def test_a_profile_replaces_no_other_file(tmp_path: Path, capsys) -> None:
    package = write_package(tmp_path / "package").path
    notes = tmp_path / "notes.json"
    notes.write_text("{}")
    assert main(["profile", str(package), "-o", str(notes)]) == 2
    assert "is not a cost profile that could be replaced" in capsys.readouterr().err
    assert notes.read_text() == "{}"


@pytest.mark.parametrize(
    "command", ["run", "profile", "report", "demo", "embed", "export-encoder"]
)
def test_nothing_is_written_into_a_package(
    words: list[str], run: Path, tmp_path: Path, command: str, capsys
) -> None:
    package = tmp_path / "package"
    (package / "graphs").mkdir(exist_ok=True)
    inside = str(package / "graphs" / "new.html")
    given = {
        "run": [*words[:3], "-o", inside],
        "profile": ["profile", str(package), "-o", inside],
        "report": ["report", str(run), "-o", inside],
        "demo": ["demo", "-o", inside],
        "embed": ["embed", str(run), "digits", "-o", inside],
        "export-encoder": ["export-encoder", str(run), "-o", inside],
    }
    before = content(package)
    assert main(given[command]) == 2
    assert f"lies inside the training package {package}" in capsys.readouterr().err
    assert content(package) == before


class RemovingEngine(FakeEngine):
    """Removes or moves the run folder in step 4."""

    def __init__(self, folder: Path, *, moved: bool) -> None:
        super().__init__()
        self._folder, self._moved = folder, moved

    def step(self, rung_id, batch, hyper, following=None):
        if hyper["step"] == 4 and self._moved:
            self._folder.rename(self._folder.with_name("moved"))
        elif hyper["step"] == 4:
            shutil.rmtree(self._folder)
        return super().step(rung_id, batch, hyper)


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_whose_folder_is_gone_ends_at_the_next_line(tmp_path: Path, moved: bool) -> None:
    package, folder = write_package(tmp_path / "package"), tmp_path / "run"
    engine = RemovingEngine(folder, moved=moved)
    with pytest.raises(StorageError, match=f"{folder} was removed, moved or replaced"):
        run_to_the_end(package, folder, engine=engine)
    assert not folder.exists()
    if moved:
        assert len(open_run(tmp_path / "moved").steps()) == 3


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    for letter in ("x", "ü"):
        name = letter * (255 // len(letter.encode()))
        write_file(any_path(str(tmp_path / name)), b"content")
        (tmp_path / name).unlink()
        with new_folder(tmp_path / name):
            pass


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        ("x" * 256, "a name in it has more than 255 bytes"),
        ("folder/" + "ü" * 128, "a name in it has more than 255 bytes"),
        ("x/" * 2048, "it has more than 4095 bytes"),
        ("a\0b", "it has a character that no file name can have"),
        ("a\ud800b", "it has a character that no file name can have"),
    ],
)
def test_what_cannot_be_a_path_is_refused(text: str, problem: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"cannot be a path: {problem}"):
        path_text(text)


def test_a_name_that_is_not_utf8_is_a_path() -> None:
    assert any_path("a\udcffb") == Path("a\udcffb")


@pytest.mark.parametrize(
    "words",
    [
        ["report", "run", "-o", "x" * 256],
        ["run", "package", "x" * 300, "-o", "run"],
        ["demo", "-o", "a\0b"],
    ],
)
def test_a_command_refuses_it_before_any_work(words: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "cannot be a path" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["report", "/a/run", "-o", "/a/page.html"], ["profile", "p", "-o", "f"], ["doctor"]],
)
def test_a_working_folder_that_was_removed_is_named(
    words: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()
    assert main(words) == 2
    assert "the working folder cannot be used: No such file" in capsys.readouterr().err
