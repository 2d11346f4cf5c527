"""About a minute of damaged files; `make fuzz` tries more."""

import pytest

from device_tests.fuzzing.__main__ import in_new_process
from device_tests.fuzzing.readers import READERS

SEED = 14
SECONDS = 2.5  # per reader; its process takes as long to start


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_an_error_or_a_result(reader: str) -> None:
    if reader == "recipe":
        pytest.importorskip("torch")
    outcome = in_new_process(reader, seed=SEED, count=10_000, seconds=SECONDS)
    assert outcome.failures == []
    assert outcome.inputs > 3  # some hundreds on a quiet machine
