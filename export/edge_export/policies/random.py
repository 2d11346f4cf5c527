"""`random`: each image keeps a random subset of its patches, from the first block on.

Accelerating Augmentation Invariance Pretraining (Lin et al. 2024), token dropout: positions
are added before dropping. The host draws the indices. Methods with an EMA teacher drop only in
the student ("asymmetric"); a shared encoder drops in every view.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from edge_export.declaration import STUDENT, Declaration, ViewGroup
from edge_export.policies.base import TokenPolicy, kept_count
from edge_runtime.package.manifest import DrawSpec, NonOverlap


class RandomPolicy(TokenPolicy):
    """Drops patches before the patch embedding, which makes the embedding cheaper, too."""

    name = "random"
    uses_keep_ratio = True
    hides_patches = True
    student_only = True

    @property
    @override
    def declaration(self) -> Declaration:
        return Declaration(
            draws=tuple(
                DrawSpec(
                    input=_draw(group),
                    views=len(group.views),
                    kept=self._kept(group),
                    population=self.setting.patches[group.name],
                    non_overlap=self._non_overlap(group),
                )
                for group in self.setting.groups
                if self._drops(group)
            )
        )

    @override
    def choose_patches(
        self, group: ViewGroup, branch: str, inputs: Mapping[str, Tensor]
    ) -> Tensor | None:
        sees_all = self.student_only and branch != STUDENT
        if sees_all or not self._drops(group):
            return None
        return inputs[_draw(group)].flatten(0, 1).to(torch.int64)  # (S, K)

    def _non_overlap(self, group: ViewGroup) -> NonOverlap | None:
        """How the second view's patches depend on the first's."""
        return None

    def _kept(self, group: ViewGroup) -> int:
        return kept_count(self.setting.keep_ratio, self.setting.patches[group.name])

    def _drops(self, group: ViewGroup) -> bool:
        return self._kept(group) < self.setting.patches[group.name]


def _draw(group: ViewGroup) -> str:
    return f"keep.{group.name}"
