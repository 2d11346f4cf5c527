"""The axes of a ladder: the differences between rungs of a package."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from edge_export.vit import ENCODER, block_name
from edge_runtime.errors import ConfigError

ALL = "all"  # the default of `trained`
_LAST = re.compile(r"last-([1-9]\d{0,3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class RungSettings:
    """One point of the ladder: a value on every axis."""

    id: str
    keep_ratio: float
    patch_size_px: int
    trained: str  # see `trained_names`
    micro_batch: int | None  # images at a time; None: the whole batch


def rung_id(
    keep_ratio: float, patch_size_px: int | None, trained: str, micro_batch: int | None
) -> str:
    """`k075` for keep-ratio 0.75, `k100-p8-last-2-m16` for other values on the other axes.

    `k0333` for 0.333: thousandths only if needed. `None` is the default of an axis.
    """
    digits = f"{keep_ratio:.2f}" if round(keep_ratio, 2) == keep_ratio else f"{keep_ratio:g}"
    parts = ["k" + digits.replace(".", "")]
    if patch_size_px is not None:
        parts.append(f"p{patch_size_px}")
    if trained != ALL:
        parts.append(trained)
    if micro_batch is not None:
        parts.append(f"m{micro_batch}")
    return "-".join(parts)


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
