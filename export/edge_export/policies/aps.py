"""`aps`: both views keep a share of their patches, and the second view's lie apart.

APS (Shen et al. 2023, "Asymmetric Patch Sampling for Contrastive Learning", arXiv 2306.02854).
From the authors' code (visresearch/aps, `asym_patch_sampling.py`): the first view keeps random
patches. The weight of a patch of the second view is the share of its area in the picture that
no kept patch of the first view shows, to the power 3; patches are drawn one after the other,
without replacement, with probabilities proportional to these weights. So the second view is
compared with what the first one keeps, not with its whole crop. The host draws, from the crops
(`edge_runtime.data.draws`): no features are compared.

Chosen here: flips count, which the authors' code does not know of; where fewer patches have a
weight than are to be kept, the others are drawn uniformly from the rest, where the authors'
code stops with an error; K is rounded up. Their branches share one encoder without an EMA
teacher. Here a teacher keeps the same patches of a view as the student, so that the views of
each compared pair lie apart, as there.
"""

from dataclasses import dataclass

from typing_extensions import override

from edge_export.declaration import ViewGroup
from edge_export.policies.base import PolicySetting, require_two_views
from edge_export.policies.random import RandomPolicy
from edge_runtime.errors import ConfigError
from edge_runtime.package.manifest import NonOverlap, Power


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options in `[tokens]`."""

    power: Power = 3.0  # of the share that is not shown; 0: both views are drawn uniformly


class ApsPolicy(RandomPolicy):
    """Drops patches of both views, in both branches."""

    name = "aps"
    options = Options
    student_only = False

    def __init__(self, setting: PolicySetting) -> None:
        super().__init__(setting)
        require_two_views(setting, self.name)
        for group in setting.method.views:
            if not group.pruned:
                raise ConfigError(
                    "tokens.name: aps keeps the patches of two views apart, and the views of "
                    f"group {group.name!r}, which no policy shortens, would overlap with "
                    "both. Leave them out, or use token policy 'random'."
                )

    @override
    def _non_overlap(self, group: ViewGroup) -> NonOverlap:
        return NonOverlap(group=group.name, power=self.setting.options.power)
