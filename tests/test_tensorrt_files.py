"""The cache of what TensorRT has built: whatever its files are, an engine is built again."""

import json
import os
import threading

import pytest

pytest.importorskip("onnxruntime", reason="a new engine is compared with it")

from tensorrt_runs import assert_right, opened
from tiny_encoder import make_package

from edge_runtime.engines.tensorrt.files import CachedFile


@pytest.fixture
def package(tmp_path):
    return make_package(tmp_path / "package")


@pytest.fixture
def folder(tensorrt, tmp_path):
    return tmp_path / "cache" / "tensorrt"


def kept(folder, kind="engine"):
    (path,) = folder.glob(f"{kind}-*.bin")
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def cut_in_the_header(path):
    path.write_bytes(path.read_bytes()[:20])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def of_another_gpu(path):
    path.write_bytes(path.read_bytes().replace(b"Orin", b"Thor"))


def empty(path):
    path.write_bytes(b"")


def no_header(path):
    path.write_bytes(b'{"key": NaN}\n' + b"\0" * 100)


def a_folder(path):
    path.unlink()
    path.mkdir()


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


def a_device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


SPOILING = [
    cut, cut_in_the_header, flip_a_bit, of_another_gpu, empty, no_header, a_folder, a_pipe,
    a_device,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILING)
@pytest.mark.parametrize("kind", ["engine", "timing"])
def test_a_file_that_cannot_be_used_is_built_again(
    package,
    tensorrt,
    folder,
    spoil,
    kind,
    caplog,
):
    opened(package).close()
    spoil(kept(folder, kind))
    if kind == "timing":
        kept(folder).unlink()
    with opened(package) as engine:
        assert_right(engine, package)
    assert tensorrt.builds == 2
    assert tensorrt.timings == [b"", b"" if kind == "timing" else b"timing"]
    assert any("cannot be used, and is built again" in text for text in caplog.messages)
    if spoil is not a_folder:  # which stays in the way
        opened(package).close()
        assert tensorrt.builds == 2


def test_kernels_that_were_timed_are_not_timed_again(package, tensorrt, folder):
    opened(package).close()
    kept(folder).unlink()
    opened(package).close()
    assert tensorrt.timings == [b"", b"timing"]


def test_times_that_tensorrt_refuses_are_left_out(package, tensorrt, folder):
    opened(package).close()
    path = kept(folder, "timing")
    CachedFile("timing", parsed(path)["key"]).write(b"of another kind")
    kept(folder).unlink()
    opened(package).close()
    assert tensorrt.timings == [b"", b"of another kind", b""]


def parsed(path):
    return json.loads(path.read_bytes().partition(b"\n")[0])


def test_without_a_cache_each_process_builds_once_and_says_so(
    package,
    tensorrt,
    monkeypatch,
    caplog,
):
    monkeypatch.setenv("EDGE_TRAIN_CACHE", "/dev/null")
    for _ in range(2):
        with opened(package) as engine:
            assert_right(engine, package)
        assert tensorrt.builds == 1
    assert any("each other one builds again" in text for text in caplog.messages)


def test_processes_that_build_at_once_do_not_disturb_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path))
    file = CachedFile("engine", {"gpu": "Orin"})
    contents = [bytes([number]) * 200_000 for number in range(4)]

    def work(content):
        for _ in range(20):
            file.write(content)
            assert file.read() in contents

    threads = [threading.Thread(target=work, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read() in contents
    assert len(list((tmp_path / "tensorrt").iterdir())) == 1


def test_the_key_is_part_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path))
    CachedFile("engine", {"gpu": "Orin"}).write(b"plan")
    assert CachedFile("engine", {"gpu": "Orin"}).read() == b"plan"
    assert CachedFile("engine", {"gpu": "Thor"}).read() is None
    assert CachedFile("timing", {"gpu": "Orin"}).read() is None
