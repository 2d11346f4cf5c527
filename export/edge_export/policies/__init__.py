"""Token policies, one file each. Adding one is one file and one line here."""

from edge_export.policies.base import Setting, TokenPolicy
from edge_export.policies.random import RandomPolicy
from edge_export.policies.simprune import SimPrunePolicy
from edge_runtime.errors import ConfigError

POLICIES: dict[str, type[TokenPolicy]] = {
    policy.name: policy
    for policy in (
        TokenPolicy,
        RandomPolicy,
        SimPrunePolicy,
    )
}


def policy_named(name: str) -> type[TokenPolicy]:
    """The policy of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in POLICIES:
        raise ConfigError(f"unknown token policy {name!r}; known are {', '.join(POLICIES)}.")
    return POLICIES[name]


__all__ = ["POLICIES", "Setting", "TokenPolicy", "policy_named"]
