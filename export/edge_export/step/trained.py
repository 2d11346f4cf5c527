"""The parameters that a rung trains."""

import re
from collections.abc import Iterable

from edge_export.vit import ENCODER, block_name
from edge_runtime.errors import ConfigError

ALL = "all"
_LAST = re.compile(r"last-([1-9]\d{0,3})")


def trained_names(names: Iterable[str], trained: str, *, depth: int) -> tuple[str, ...]:
    """The names that a rung with this `trained` field updates, in order.

    Args:
        names: of all parameters.
        trained: "all", or "last-K": the last K blocks, the final norm, and everything that is
            not part of the encoder.
        depth: blocks of the encoder.

    Raises:
        ConfigError: another value, or more blocks than the encoder has.
    """
    if trained == ALL:
        return tuple(names)
    match = _LAST.fullmatch(trained)
    if match is None or int(match[1]) > depth:
        raise ConfigError(
            f"trained: expected 'all', or 'last-1' to 'last-{depth}' for the last blocks, got "
            f"{trained!r}"
        )
    blocks = range(depth - int(match[1]), depth)
    prefixes = (f"{ENCODER}norm.", *(f"{block_name(block)}." for block in blocks))
    return tuple(
        name for name in names if not name.startswith(ENCODER) or name.startswith(prefixes)
    )
