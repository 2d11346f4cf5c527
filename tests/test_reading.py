"""Files of others: regular ones, up to a size; strict JSON. No reader waits or eats memory."""

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from test_costs import PROFILE
from training_fakes import INFO, MOMENT, SPENT, STEP, write_package

from edge_runtime.device import load_board
from edge_runtime.device.sensors.replay import read_trace
from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.live.follower import Follower
from edge_runtime.package import open_package
from edge_runtime.profiling import load_profile, save_profile
from edge_runtime.reading import (
    open_regular,
    parse_json,
    read_blocks,
    read_file,
    read_json,
)
from edge_runtime.records import RunWriter, create_run, open_run
from edge_runtime.records.jsonl import LineFile, LineReader, is_held
from edge_runtime.records.totals import Losses
from edge_runtime.report.summary.fold import digest_run
from edge_runtime.state import encode_state, load_state
from edge_runtime.storage import file_sha256

# What a file can be instead


def fifo(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def listening_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5 << 40)


KINDS = [fifo, zeros, folder, listening_socket, sparse]


@contextmanager
def within(limit_s: float) -> Iterator[None]:
    """Fail if the block takes longer, also while it waits for a file."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"it took more than {limit_s} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Every reader: where its file is, and how it is read


def in_package(folder: Path, name: str) -> tuple[Path, Callable[[], object]]:
    package = write_package(folder / "package").path
    return package / name, lambda: open_package(package)


def begun(folder: Path) -> Path:
    with RunWriter(create_run(folder / "run", INFO)) as writer:
        writer.record(STEP, MOMENT)
        writer.save({}, step=1, epoch=0, spent=SPENT, losses=Losses())
    return folder / "run"


def in_run(
    folder: Path, name: str, read: Callable[[Path], object]
) -> tuple[Path, Callable[[], object]]:
    run = begun(folder)
    return run / name, lambda: read(run)


def one_file(
    folder: Path, read: Callable[[Path], object]
) -> tuple[Path, Callable[[], object]]:
    file = folder / "file"
    save_profile(PROFILE, file)
    return file, lambda: read(file)


def follow(run: Path) -> object:
    return Follower(open_run(run)).poll()


def newest(run: Path) -> object:
    return open_run(run).newest_checkpoint()


def write(run: Path) -> object:
    return RunWriter(open_run(run))


def recipe(folder: Path) -> tuple[Path, Callable[[], object]]:
    pytest.importorskip("torch")
    from edge_export.recipe import read_recipe

    return one_file(folder, read_recipe)


READERS: dict[str, Callable[[Path], tuple[Path, Callable[[], object]]]] = {
    "manifest": lambda at: in_package(at, "manifest.json"),
    "state": lambda at: in_package(at, "state.safetensors"),
    "graph": lambda at: in_package(at, "graphs/k050/step.onnx"),
    "run": lambda at: in_run(at, "run.json", open_run),
    "steps of a report": lambda at: in_run(at, "steps.jsonl", digest_run),
    "events of a report": lambda at: in_run(at, "events.jsonl", digest_run),
    "power of a report": lambda at: in_run(at, "power.jsonl", digest_run),
    "steps of a watcher": lambda at: in_run(at, "steps.jsonl", follow),
    "events of a watcher": lambda at: in_run(at, "events.jsonl", follow),
    "steps of a writer": lambda at: in_run(at, "steps.jsonl", write),
    "lock": lambda at: in_run(at, "steps.jsonl", lambda run: is_held(run / "steps.jsonl")),
    "checkpoint": lambda at: in_run(at, "checkpoints/1/checkpoint.json", newest),
    "state of a checkpoint": lambda at: in_run(at, "checkpoints/1/state.safetensors", newest),
    "profile": lambda at: one_file(at, load_profile),
    "board": lambda at: one_file(at, load_board),
    "recipe": recipe,
    "trace": lambda at: one_file(at, read_trace),
}
LINES = ("steps", "events", "power", "lock")  # any size is fine: they are read in blocks


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_waits_for_a_file_that_is_none(reader, kind, tmp_path) -> None:
    if kind is sparse and reader.startswith(LINES):
        pytest.skip("files of lines may have any size")
    path, read = READERS[reader](tmp_path)
    path.unlink()
    kind(path)
    with within(1.0), pytest.raises(EdgeRuntimeError) as caught:
        read()
    assert path.name in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
def test_the_kernels_log_is_neither_waited_for_nor_read(reader, tmp_path) -> None:
    path, read = READERS[reader](tmp_path)
    path.unlink()
    path.symlink_to("/proc/kmsg")
    with within(1.0), suppress(EdgeRuntimeError):  # it has no length, like an empty file
        read()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (fifo, "it is not a regular file"),
        (zeros, "it is not a regular file"),
        (folder, "Is a directory"),
        (listening_socket, "it is not a regular file"),
        (sparse, "it has 5120.0 GiB; at most 1.0 MiB are read"),
    ],
)
def test_what_is_refused_is_named(kind, reason, tmp_path) -> None:
    kind(tmp_path / "it")
    with within(1.0), pytest.raises(OSError, match=reason) as caught:
        read_file(tmp_path / "it", 1 << 20)
    assert caught.value.filename == str(tmp_path / "it")


def test_a_file_of_the_largest_size_is_read(tmp_path) -> None:
    (tmp_path / "it").write_bytes(b"12345678")
    assert read_file(tmp_path / "it", 8) == b"12345678"
    with pytest.raises(OSError, match="it has 8 B; at most 7 B are read"):
        read_file(tmp_path / "it", 7)


def test_a_file_that_is_replaced_while_it_is_opened_is_refused(tmp_path, monkeypatch) -> None:
    fifo(tmp_path / "it")
    regular, before = os.stat(__file__), len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr("edge_runtime.reading.os.stat", lambda _: regular)
    with within(1.0), pytest.raises(OSError, match="it is not a regular file"):
        open_regular(tmp_path / "it")
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_added_to_a_file_while_it_is_read_is_left_out(tmp_path) -> None:
    (tmp_path / "it").write_bytes(b"abcd")
    blocks = read_blocks(tmp_path / "it", 100, block_bytes=2)
    assert next(blocks) == b"ab"
    with (tmp_path / "it").open("ab") as file:
        file.write(b"efgh")
    assert list(blocks) == [b"cd"]


def test_a_file_of_the_kernel_reads_as_empty() -> None:
    assert read_file(Path("/proc/self/status"), 1 << 20) == b""


def test_a_descriptor_is_not_lost(tmp_path) -> None:
    fifo(tmp_path / "it")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(OSError, match="not a regular"):
            open_regular(tmp_path / "it")
        with pytest.raises(EdgeRuntimeError, match="not a regular"):
            LineFile(tmp_path / "it")
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_endless_line_is_refused(tmp_path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"x" * (5 << 20))
    lines = LineReader(path)
    assert lines.read() == [{"a": 1}]
    with pytest.raises(EdgeRuntimeError, match=r"line 2 is damaged: it is longer than 4.0 M"):
        lines.read()


def test_a_hash_is_of_the_whole_file(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * ((1 << 20) + 1))
    assert file_sha256(path).startswith("154b8ed3")  # by sha256sum


# JSON


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe{", "codec can't decode"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"a":' * 100_000, "it is nested too deeply"),
        (b"[NaN]", "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b"1" * 10_000, "limit"),
        (rb'["\ud800"]', "half of a surrogate pair"),
        (rb'{"\uDFFF": 1}', "half of a surrogate pair"),
        ('["\ud800"]'.encode("utf-8", "surrogatepass"), "codec can't decode"),
        ('{"a": 1}'.encode("utf-16"), "codec can't decode"),
    ],
    ids=[
        "empty",
        "binary",
        "deep list",
        "deep table",
        "NaN",
        "infinity",
        "digits",
        "value",
        "key",
        "raw",
        "UTF-16",
    ],
)
def test_what_is_not_json_is_an_error_of_the_file(content, reason, tmp_path) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(content)
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_json(tmp_path / "file")
    if b"\0" in content:  # left out, see test_power_cut.py
        return
    (tmp_path / "lines").write_bytes(b"{}\n" + content + b"\n")
    with pytest.raises(EdgeRuntimeError, match="line 2"):
        list(LineReader(tmp_path / "lines"))


def test_pairs_of_surrogates_are_characters() -> None:
    text = json.dumps({"\U0001f600": "\U0001f600"})
    assert "\\ud83d" in text
    assert parse_json(text.encode()) == {"\U0001f600": "\U0001f600"}


def test_a_state_whose_header_is_too_long_is_refused(tmp_path) -> None:
    path = tmp_path / "state"
    path.write_bytes((12 << 20).to_bytes(8, "little") + encode_state({})[8:])
    with pytest.raises(ValueError, match="its header is too long"):
        load_state(path)
