"""BYOL under another name, which may refuse micro-batches, for tests of both."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from edge_export.objectives import OBJECTIVES
from edge_export.objectives.byol import BYOL
from edge_export.objectives.heads import HeadOptions


class Paired(BYOL):
    """Two views, predictor, EMA teacher; no picture sees another."""

    name = "paired"
    options = HeadOptions  # LayerNorm by default
    refusal: str | None = None

    def __init__(self, model, options):
        super().__init__(model, options)
        self.declaration = replace(self.declaration, micro_batch_refusal=self.refusal)


@contextmanager
def paired_method(refusal: str | None = None) -> Iterator[None]:
    """Register it during the block; with a refusal, it needs the whole batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Paired, "refusal", refusal)
        patch.setitem(OBJECTIVES, Paired.name, Paired)
        yield
