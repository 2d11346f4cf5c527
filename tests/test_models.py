"""Model names and sizes, what an encoder consists of, and how it starts."""

import dataclasses
import math

import pytest

torch = pytest.importorskip("torch", reason="parameters are PyTorch's tensors")

from edge_export.models import FAMILIES, model_facts  # noqa: E402
from edge_export.parameters import Parameter, initial_values, linear  # noqa: E402
from edge_export.vit import encoder_parameters  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402


def test_a_full_name_has_all_sizes():
    facts = model_facts("vit_base_patch32_384")
    assert (facts.image_size_px, facts.patch_size_px, facts.tokens) == (384, 32, 145)
    assert (facts.width, facts.depth, facts.heads) == (768, 12, 12)
    assert facts.name == "vit_base_patch32_384"


def test_given_sizes_override_the_name():
    facts = model_facts(
        "vit_tiny_patch16_224", image_size_px=32, patch_size_px=4, width=48, depth=2, heads=4
    )
    assert (facts.image_size_px, facts.patch_size_px, facts.tokens) == (32, 4, 65)
    assert (facts.width, facts.depth, facts.heads) == (48, 2, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_timms_sizes_or_the_given(family):
    facts = model_facts(family, image_size_px=96, patch_size_px=8)
    full = model_facts(f"{family}_patch8_96")
    assert facts == dataclasses.replace(full, name=family)
    assert facts.tokens == 145
    usual = model_facts(f"{family}_patch16_224")
    assert model_facts(family) == dataclasses.replace(usual, name=family)
    for one in ({"image_size_px": 96}, {"patch_size_px": 8}):
        message = rf"'{family}' is a family: give both --image-size and --patch-size, or neit"
        with pytest.raises(ConfigError, match=message):
            model_facts(family, **one)


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_are_normalised_as_timms_model_of_that_name_expects(family):
    half, imagenet = (0.5,) * 3, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = imagenet if family.startswith("deit") else (half, half)
    for name in (family, f"{family}_patch8_96"):
        facts = model_facts(name)
        assert (facts.mean, facts.std) == expected
    given = model_facts(family, mean=(0.1, 0.2, 0.3))
    assert (given.mean, given.std) == ((0.1, 0.2, 0.3), expected[1])


@pytest.mark.parametrize(
    "name",
    [
        "",
        "vit",
        "ViT_tiny",
        "vit_tiny_patch16",
        "vit_tiny_patch16_224.augreg_in21k",
        "deit3_small_patch16_224",  # has layer scale
        "vit_base_patch16_clip_224",
    ],
)
def test_other_names_are_unknown_and_the_known_are_reported(name):
    with pytest.raises(ConfigError, match="unknown model") as caught:
        model_facts(name, image_size_px=32, patch_size_px=4)
    assert repr(name) in str(caught.value)
    assert all(family in str(caught.value) for family in FAMILIES)


@pytest.mark.parametrize(
    ("name", "count"),
    [  # timm's, with num_classes=0
        ("vit_tiny_patch16_224", 5_524_416),
        ("deit_small_patch16_224", 21_665_664),
        ("vit_base_patch16_224", 85_798_656),
        ("vit_large_patch16_224", 303_301_632),
    ],
)
def test_an_encoder_has_as_many_parameters_as_timms(name, count):
    declared = encoder_parameters(model_facts(name))
    assert sum(math.prod(parameter.shape) for parameter in declared) == count
    assert len({parameter.name for parameter in declared}) == len(declared)


def test_initial_values_depend_only_on_the_seed():
    declared = encoder_parameters(
        model_facts("vit_tiny_patch8_16", width=12, heads=1, depth=1)
    )
    first = initial_values(declared, seed=1)
    torch.manual_seed(99)
    torch.rand(5)
    again, other = initial_values(declared, seed=1), initial_values(declared, seed=2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = {
        parameter.name for parameter in declared if parameter.init not in ("zeros", "ones")
    }
    assert drawn == {name for name in first if not torch.equal(first[name], other[name])}
    assert {value.dtype for value in first.values()} == {torch.float32}
    assert {p.name: p.shape for p in declared} == {k: tuple(v.shape) for k, v in first.items()}


def test_initial_values_are_as_declared():
    weight, bias = linear("fc", 100, 300, fused=3)
    norm = Parameter(name="scale", shape=(5,), init="ones")
    token = Parameter(name="token", shape=(1, 200, 50), init="truncated_normal")
    values = initial_values([weight, bias, norm, token], seed=0)
    bound = math.sqrt(6 / (100 + 100))  # of queries, keys and values separately
    matrix = values["fc.weight"]
    assert matrix.shape == (100, 300)
    assert 0.99 * bound < matrix.abs().max() <= bound
    assert matrix.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert not values["fc.bias"].any()
    assert (values["scale"] == 1).all()
    assert values["token"].abs().max() <= 0.04
    # A normal distribution of deviation 0.02, cut at two deviations: 0.88 of it is left.
    assert values["token"].std().item() == pytest.approx(0.02 * 0.8796, rel=0.02)


def test_only_matrices_usually_decay():
    declared = encoder_parameters(model_facts("vit_tiny_patch8_16"))
    vectors = ("bias", "norm1.weight", "norm2.weight", "norm.weight", "cls_token", "pos_embed")
    for parameter in declared:
        assert parameter.is_matrix != parameter.name.endswith(vectors)
