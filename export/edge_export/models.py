"""Sizes and pixel normalisation of models by timm's names."""

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


class Normalisation(NamedTuple):
    """Mean and deviation of red, green and blue, for pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


FAMILIES = {
    "vit_tiny": Family(192, 12, 3),
    "vit_small": Family(384, 12, 6),
    "vit_base": Family(768, 12, 12),
    "vit_large": Family(1024, 24, 16),
    "deit_tiny": Family(192, 12, 3),
    "deit_small": Family(384, 12, 6),
    "deit_base": Family(768, 12, 12),
}
# By the first word of a family: what timm's models of these names expect (their default_cfg)
NORMALISATIONS = {
    "vit": Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "deit": Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet's
}
USUAL_SIZES = {"image_size": 224, "patch_size": 16}  # of timm's models, for a family alone
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
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> ModelFacts:
    """Sizes and normalisation of a model: those of its name, overridden by the given ones.

    Raises:
        ConfigError: an unknown name or kind of features, a family with only one of image and
            patch size, sizes out of range or that do not divide, or not three channels.
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
    if not USUAL_SIZES.keys() & sizes.keys():
        sizes |= USUAL_SIZES
    if not sizes.keys() >= USUAL_SIZES.keys():
        raise ConfigError(
            f"model {name!r} is a family: give both --image-size and --patch-size, or neither "
            f"for those of {name}_patch16_224. A patch of an eighth of the image suits "
            "small images."
        )
    usual = NORMALISATIONS[name.partition("_")[0]]
    pixels = Normalisation(
        usual.mean if mean is None else mean, usual.std if std is None else std
    )
    _check(name, sizes, features, pixels)
    image, patch = sizes.pop("image_size"), sizes.pop("patch_size")
    return ModelFacts(
        name=name,
        image_size_px=image,
        patch_size_px=patch,
        tokens=(image // patch) ** 2 + 1,
        features=features,
        mean=pixels.mean,
        std=pixels.std,
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


def _check(name: str, sizes: Mapping[str, int], features: str, pixels: Normalisation) -> None:
    """Refuse invalid sizes."""
    for key, size in sizes.items():
        if size not in (limits := get_args(_KINDS[key])[1]):
            expected = limits.of("an integer")
            raise ConfigError(f"model {name!r}: {key}: expected {expected}, got {size}.")
    if features not in FEATURE_KINDS:
        raise ConfigError(
            f"model.features: unknown {features!r}; known are {', '.join(FEATURE_KINDS)}."
        )
    for key, values in pixels._asdict().items():
        if len(values) != 3:
            raise ConfigError(
                f"model.{key}: expected three numbers, for red, green and blue, got "
                f"{len(values)}."
            )
    image, patch = sizes["image_size"], sizes["patch_size"]
    if image % patch:
        raise ConfigError(f"image size {image} px is not a multiple of patch size {patch} px.")
    if sizes["width"] % sizes["heads"]:
        raise ConfigError(
            f"width {sizes['width']} is not a multiple of {sizes['heads']} heads."
        )
