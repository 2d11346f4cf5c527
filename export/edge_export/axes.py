"""The axes of a ladder: the differences between rungs of a package."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edge_export.parameters import Parameter
from edge_export.vit import ENCODER, block_name
from edge_runtime.errors import ConfigError
from edge_runtime.package.manifest import ModelFacts

ALL = "all"  # the default of `trained`
BIASES = "biases"
_LAST = re.compile(r"last-([1-9]\d{0,3})")
_LORA = re.compile(r"lora-([1-9]\d{0,4})")


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


def rank_of(trained: str) -> int | None:
    """R of "lora-R"; `None` for the other values of `trained`."""
    match = _LORA.fullmatch(trained)
    return int(match[1]) if match else None


def trained_names(
    parameters: Iterable[Parameter], trained: str, model: ModelFacts
) -> tuple[str, ...]:
    """The names that a rung with this `trained` field updates, in order.

    That is everything outside the encoder, such as heads, and of the encoder:

    - "all": all parameters except low-rank factors;
    - "last-K": those of the last K blocks and of the final norm, except low-rank factors;
    - "biases": biases, and the norms' scales and shifts;
    - "lora-R": the low-rank factors, of rank R.

    Args:
        parameters: all of them.
        trained: one of these.
        model: the encoder.

    Raises:
        ConfigError: another value, more blocks than the encoder has, a rank above its width.
    """
    in_encoder = _trained_in_encoder(trained, model)
    return tuple(
        each.name
        for each in parameters
        if not each.name.startswith(ENCODER) or in_encoder(each)
    )


def _trained_in_encoder(trained: str, model: ModelFacts) -> Callable[[Parameter], bool]:
    """Whether a parameter of the encoder is trained."""
    if trained == ALL:
        return lambda parameter: not parameter.is_low_rank
    if trained == BIASES:
        return lambda parameter: len(parameter.shape) == 1
    if (rank := rank_of(trained)) and rank <= model.width:
        return lambda parameter: parameter.is_low_rank
    if (match := _LAST.fullmatch(trained)) and int(match[1]) <= model.depth:
        blocks = range(model.depth - int(match[1]), model.depth)
        prefixes = (f"{ENCODER}norm.", *(f"{block_name(block)}." for block in blocks))
        return lambda each: each.name.startswith(prefixes) and not each.is_low_rank
    raise ConfigError(
        f"trained: expected 'all', 'last-1' to 'last-{model.depth}' for the last blocks, "
        f"'biases', or 'lora-1' to 'lora-{model.width}' for low-rank factors, got {trained!r}"
    )
