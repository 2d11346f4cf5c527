"""Sizes of models by timm's names."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from edge_export.vit import CLASS_TOKEN, FEATURE_KINDS
from edge_runtime.errors import ConfigError
from edge_runtime.package.manifest import Depth, ModelFacts, Pixels, Width


class Family(NamedTuple):
    """Sizes of a family."""

    width: int
    depth: int
    heads: int


FAMILIES = {
    "vit_tiny": Family(192, 12, 3),
    "vit_small": Family(384, 12, 6),
    "vit_base": Family(768, 12, 12),
    "vit_large": Family(1024, 24, 16),
    "deit_tiny": Family(192, 12, 3),
    "deit_small": Family(384, 12, 6),
    "deit_base": Family(768, 12, 12),
}
_KINDS: dict[str, Any] = {
    "image_size": Pixels,
    "patch_size": Pixels,
    "width": Width,
    "depth": Depth,
    "heads": Width,
}
_NAME = re.compile(r"(?P<family>[a-z]+_[a-z]+)(_patch(?P<patch>\d{1,5})_(?P<image>\d{1,5}))?")


def model_facts(
    name: str,
    *,
    image_size_px: int | None = None,
    patch_size_px: int | None = None,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    features: str = CLASS_TOKEN,
) -> ModelFacts:
    """Sizes of a model: those of its name, overridden by the given ones.

    Raises:
        ConfigError: an unknown name or kind of features, a family without image and patch
            size, sizes out of range, or sizes that do not divide.
    """
    given = {
        "image_size": image_size_px,
        "patch_size": patch_size_px,
        "width": width,
        "depth": depth,
        "heads": heads,
    }
    sizes = _named_sizes(name)
    sizes |= {key: size for key, size in given.items() if size is not None}
    if not {"image_size", "patch_size"} <= sizes.keys():
        raise ConfigError(
            f"model {name!r} is a family: give --image-size and --patch-size, or a full name "
            f"such as {name}_patch16_224."
        )
    _check(name, sizes, features)
    image, patch = sizes.pop("image_size"), sizes.pop("patch_size")
    return ModelFacts(
        name=name,
        image_size_px=image,
        patch_size_px=patch,
        tokens=(image // patch) ** 2 + 1,
        features=features,
        **sizes,
    )


def _named_sizes(name: str) -> dict[str, int]:
    """The sizes of a name."""
    match = _NAME.fullmatch(name)
    if not match or match["family"] not in FAMILIES:
        raise ConfigError(
            f"unknown model {name!r}; known are {', '.join(FAMILIES)}, with sizes given or as "
            "in vit_tiny_patch16_224."
        )
    sizes: dict[str, int] = FAMILIES[match["family"]]._asdict()
    if match["image"]:
        sizes |= {"image_size": int(match["image"]), "patch_size": int(match["patch"])}
    return sizes


def _check(name: str, sizes: Mapping[str, int], features: str) -> None:
    """Refuse invalid sizes."""
    for key, size in sizes.items():
        if size not in (limits := get_args(_KINDS[key])[1]):
            expected = limits.of("an integer")
            raise ConfigError(f"model {name!r}: {key}: expected {expected}, got {size}.")
    if features not in FEATURE_KINDS:
        raise ConfigError(
            f"model.features: unknown {features!r}; known are {', '.join(FEATURE_KINDS)}."
        )
    image, patch = sizes["image_size"], sizes["patch_size"]
    if image % patch:
        raise ConfigError(f"image size {image} px is not a multiple of patch size {patch} px.")
    if sizes["width"] % sizes["heads"]:
        raise ConfigError(
            f"width {sizes['width']} is not a multiple of {sizes['heads']} heads."
        )
