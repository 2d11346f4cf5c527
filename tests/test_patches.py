"""Patches and views of other sizes than the model's; features besides the class token."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="patches are cut by torch functions")

from encoded import encoded  # noqa: E402
from torch.nn.functional import interpolate  # noqa: E402

from edge_export import vit  # noqa: E402
from edge_export.declaration import NoOptions, ObjectiveDeclaration, ViewGroup  # noqa: E402
from edge_export.models import model_facts  # noqa: E402
from edge_export.package.initial import resize_positions  # noqa: E402
from edge_export.patches import KERNEL, POSITIONS, PatchGrid, resize_matrix  # noqa: E402
from edge_export.policies import PolicySetting, TokenPolicy  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.encoder import GroupEncoder  # noqa: E402
from edge_export.step.example import example_images  # noqa: E402
from edge_export.step.program import Program  # noqa: E402

WIDTH, IMAGE, PATCH = 6, 16, 4
MODEL = model_facts(
    "vit_tiny", image_size_px=IMAGE, patch_size_px=PATCH, width=WIDTH, heads=2, depth=2
)


def weights_of(seed=0):
    """Random encoder weights by parameter name, float64."""
    generator = torch.Generator().manual_seed(seed)
    return {
        p.name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for p in vit.encoder_parameters(MODEL)
    }


def images_of(size_px, count=3):
    generator = torch.Generator().manual_seed(1)
    shape = (count, size_px, size_px, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def grid(*, size_px=IMAGE, patch_size_px=PATCH):
    return PatchGrid(MODEL, size_px=size_px, patch_size_px=patch_size_px)


def test_the_models_own_sizes_change_nothing():
    weights = weights_of()
    own = grid()
    assert own.patches == 16
    assert own.kernel(weights) is weights[f"{KERNEL}.weight"]
    assert torch.equal(own.positions(weights), weights[POSITIONS][:, 1:])


@pytest.mark.parametrize(
    ("size_px", "patch_size_px", "patches"), [(16, 8, 4), (8, 4, 4), (24, 2, 144)]
)
def test_the_number_of_patches_is_that_of_the_cut(size_px, patch_size_px, patches):
    patch_grid = grid(size_px=size_px, patch_size_px=patch_size_px)
    assert patch_grid.patches == patches
    cut = patch_grid.cut(images_of(size_px))
    assert cut.shape == (3, patches, patch_size_px**2 * 3)
    positions = patch_grid.positions(weights_of())
    assert positions.shape == (1, patches, WIDTH)
    tokens = patch_grid.embed(weights_of(), cut, positions)
    assert tokens.shape == (3, 1 + patches, WIDTH)


def test_positions_of_another_grid_are_resized_as_a_checkpoints_are():
    weights = weights_of()
    actual = grid(size_px=24).positions(weights)
    expected = resize_positions(weights[POSITIONS], 1 + 36)[:, 1:]
    # The matrix was made in float32.
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("old", "new"), [(4, 7), (7, 4), (3, 3)])
def test_the_matrix_of_a_resize_is_the_resize(mode, old, new):
    picture = torch.randn(old, old, generator=torch.Generator().manual_seed(2))
    wanted = interpolate(picture[None, None], size=(new, new), mode=mode, antialias=True)
    actual = torch.tensor(resize_matrix(old, new, mode)) @ picture.flatten()
    np.testing.assert_allclose(actual, wanted.flatten(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("patch_size_px", [5, 8, 12])
def test_larger_patches_give_the_tokens_of_the_patches_that_they_were_resized_from(
    patch_size_px,
):
    """FlexiViT, section 3.4: resizing up loses nothing, so the products are the same."""
    weights = weights_of()
    kernel = grid(size_px=patch_size_px, patch_size_px=patch_size_px).kernel(weights)
    small = torch.randn(PATCH, PATCH, 3, generator=torch.Generator().manual_seed(3))
    channels = small.permute(2, 0, 1)[None]
    size = (patch_size_px, patch_size_px)
    large = interpolate(channels, size=size, mode="bilinear", antialias=True)[0]
    actual = large.permute(1, 2, 0).reshape(-1).double() @ kernel
    expected = small.reshape(-1).double() @ weights[f"{KERNEL}.weight"]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)  # of a float32 inverse


def test_gradients_reach_the_tensors_of_the_state():
    weights = weights_of()
    other = grid(size_px=24, patch_size_px=8)
    images = images_of(24)

    def total(trained):
        positions = other.positions(trained)
        return (other.embed(trained, other.cut(images), positions) ** 2).sum()

    gradients = torch.func.grad(total)(weights)
    for name in (f"{KERNEL}.weight", f"{KERNEL}.bias", POSITIONS, f"{vit.ENCODER}cls_token"):
        assert gradients[name].abs().sum() > 0, name
    for row in gradients[f"{KERNEL}.weight"]:
        assert row.any()  # every pixel of the base kernel


# Features.


def keep_all(model):
    """The policy that keeps every token."""
    return TokenPolicy(
        PolicySetting(
            model=model,
            keep_ratio=1.0,
            method=ObjectiveDeclaration(views=()),
            patches={},
            options=NoOptions(),
        )
    )


def test_features_are_the_class_token_or_the_mean_of_the_patches():
    weights, images = weights_of(), images_of(IMAGE)
    tokens = grid().embed(weights, grid().cut(images), grid().positions(weights))
    for index in range(MODEL.depth):
        tokens = vit.block(weights, vit.block_name(index), MODEL.heads, tokens)
    tokens = vit.layer_norm(weights, f"{vit.ENCODER}norm", tokens)
    expected = {"class-token": tokens[:, 0], "mean-patches": tokens[:, 1:].mean(dim=1)}
    for features, value in expected.items():
        model = model_facts(
            "vit_tiny",
            image_size_px=IMAGE,
            patch_size_px=PATCH,
            width=WIDTH,
            heads=2,
            depth=2,
            features=features,
        )
        group = ViewGroup(name="images", size_px=IMAGE, views=(), teacher=False)
        encoder = GroupEncoder(model, group, grid(), keep_all(model))
        actual = encoder.features(weights, images)
        np.testing.assert_allclose(actual, value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("features", vit.FEATURE_KINDS)
def test_a_step_without_pruning_has_the_features_of_the_embedding(features):
    sizes = {"image_size": IMAGE, "patch_size": PATCH, "depth": 2, "width": WIDTH, "heads": 2}
    table = {
        "model": {**sizes, "features": features},
        "tokens": {"name": "none"},
        "batch_size": 2,
    }
    program = Program(make_recipe(table, where="test"))
    rung = program.bind(program.settings[0])
    weights, images = weights_of(), example_images(rung)
    student = encoded(rung, weights, images).student
    expected = program.embed(weights, images["images.global"].flatten(0, 1))
    np.testing.assert_allclose(student.features.flatten(0, 1), expected, rtol=1e-10)
    assert torch.equal(student.kept, torch.arange(16).expand(2, 2, 16))


def test_tokens_that_a_view_group_does_not_ask_for_are_refused():
    sizes = {"image_size": IMAGE, "patch_size": PATCH, "depth": 1, "width": WIDTH, "heads": 2}
    program = Program(make_recipe({"model": sizes, "batch_size": 2}, where="test"))
    rung = program.bind(program.settings[0])
    student = encoded(rung, weights_of(), example_images(rung)).student
    with pytest.raises(ValueError, match="the view group does not declare `patch_tokens`"):
        _ = student.patch_tokens
    with pytest.raises(ValueError, match="the view group does not declare `patch_tokens`"):
        _ = student.class_token
