"""The number of calls between the command and the runtime."""

import sys

import pytest

from edge_runtime import within_budget
from edge_runtime.cli.main import main
from edge_runtime.selftest import PACKAGE

MOST_FRAMES = 7


def test_few_frames_lie_between_the_command_and_the_runtime(tmp_path, monkeypatch) -> None:
    ort = pytest.importorskip("onnxruntime")
    paths: list[list[str]] = []
    run_with_iobinding = ort.InferenceSession.run_with_iobinding

    def watched(self, binding, *options):
        frame, path = sys._getframe(1), []
        while frame is not None and not frame.f_code.co_filename.endswith("cli/run.py"):
            path.append(f"{frame.f_globals['__name__']}.{frame.f_code.co_name}")
            frame = frame.f_back
        paths.append([*path, "edge_runtime.cli.run.run"])
        return run_with_iobinding(self, binding, *options)

    monkeypatch.setattr(ort.InferenceSession, "run_with_iobinding", watched)
    monkeypatch.setattr(within_budget, "_IDLE_S", 0.0)
    words = ["run", str(PACKAGE), "digits", "-o", str(tmp_path / "run"), "--rung", "k050"]
    assert main([*words, "--images", "64", "--epochs", "1"]) == 0
    assert paths
    longest = max(paths, key=len)
    assert len(longest) <= MOST_FRAMES, longest
