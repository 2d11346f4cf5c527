"""Token policies, one file each. A new one needs a file and a line here."""

from edge_export.policies.aps import ApsPolicy
from edge_export.policies.base import PolicySetting, TokenPolicy
from edge_export.policies.combined import CombinedPolicy
from edge_export.policies.evit import EvitPolicy
from edge_export.policies.random import RandomPolicy
from edge_export.policies.ranked import RankedPolicy
from edge_export.policies.simprune import SimPrunePolicy
from edge_export.policies.tome import TomePolicy
from edge_runtime.errors import ConfigError

POLICIES: dict[str, type[TokenPolicy]] = {
    policy.name: policy
    for policy in (
        TokenPolicy,
        RandomPolicy,
        SimPrunePolicy,
        EvitPolicy,
        TomePolicy,
        ApsPolicy,
        RankedPolicy,
    )
}


def policies_named(name: str) -> tuple[type[TokenPolicy], ...]:
    """The policies of a name such as `random`, or of a combination such as `a+b`.

    Raises:
        ConfigError: one of them is unknown, or is repeated.
    """
    names = name.split("+")
    for each in names:
        if each not in POLICIES:
            known = ", ".join(POLICIES)
            raise ConfigError(
                f"unknown token policy {each!r}; known are {known}, and combinations such as "
                "random+simprune."
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"token policy {name!r}: each policy at most once.")
    return tuple(POLICIES[each] for each in names)


def uses_keep_ratio(name: str) -> bool:
    """Whether a keep-ratio below 1.0 means anything to a policy or combination."""
    known = [POLICIES[each] for each in name.split("+") if each in POLICIES]
    return not known or any(policy.uses_keep_ratio for policy in known)


__all__ = [
    "POLICIES",
    "CombinedPolicy",
    "PolicySetting",
    "TokenPolicy",
    "policies_named",
    "uses_keep_ratio",
]
