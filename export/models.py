"""Model names, as timm spells them, into sizes."""

import re
from typing import NamedTuple

from edge_runtime.errors import ConfigError
from edge_runtime.package.manifest import ModelFacts


class Family(NamedTuple):
    """Sizes that a family name stands for."""

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
_NAME = re.compile(r"(?P<family>[a-z]+_[a-z]+)(_patch(?P<patch>\d+)_(?P<image>\d+))?")


def model_facts(
    name: str,
    *,
    image_size_px: int | None = None,
    patch_size_px: int | None = None,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
) -> ModelFacts:
    """Sizes of a model: those of its name, replaced by the ones given.

    Raises:
        ConfigError: an unknown name, a family without image and patch size, or sizes that do
            not divide.
    """
    found = _NAME.fullmatch(name)
    if not found or found["family"] not in FAMILIES:
        raise ConfigError(
            f"unknown model {name!r}; known are {', '.join(FAMILIES)}, with sizes given or as "
            "in vit_tiny_patch16_224."
        )
    family = FAMILIES[found["family"]]
    image = image_size_px or (int(found["image"]) if found["image"] else None)
    patch = patch_size_px or (int(found["patch"]) if found["patch"] else None)
    if image is None or patch is None:
        raise ConfigError(
            f"model {name!r} is a family: give --image-size and --patch-size, or a full name "
            f"such as {name}_patch16_224."
        )
    width, heads = width or family.width, heads or family.heads
    if image % patch:
        raise ConfigError(f"image size {image} px is not a multiple of patch size {patch} px.")
    if width % heads:
        raise ConfigError(f"width {width} is not a multiple of {heads} heads.")
    return ModelFacts(
        name=name,
        image_size_px=image,
        patch_size_px=patch,
        width=width,
        depth=depth or family.depth,
        heads=heads,
        tokens=(image // patch) ** 2 + 1,
    )
