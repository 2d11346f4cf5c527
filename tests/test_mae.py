"""MAE against slow definitions in float64: targets, loss, decoder; and its refusals."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="losses are torch functions")

from combinations import keep_ratios  # noqa: E402
from steps import hyper_of, noise_batch  # noqa: E402
from test_losses import DIFFERENCES, differences, gradient_of  # noqa: E402

from edge_export import vit  # noqa: E402
from edge_export.context import Encoding, StepContext  # noqa: E402
from edge_export.models import model_facts  # noqa: E402
from edge_export.objectives.mae import (  # noqa: E402
    MAE,
    MaeOptions,
    hidden_error,
    normalised_targets,
    placed,
)
from edge_export.package.build import export_package  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.example import example_draws, example_images  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.engines import create_engine  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402

WIDTH, BATCH = 6, 2
MODEL = model_facts(
    "vit_tiny", image_size_px=6, patch_size_px=2, width=WIDTH, heads=1, depth=1
)
PATCHES, PIXELS = 9, 12
BOUND = MAE(MODEL, MaeOptions(decoder_width=8, decoder_depth=2))


# Slow definitions. Never optimise these.


def normalised_slowly(patch):
    """`norm_pix_loss` of the authors' code: mean, and the variance of `torch.var`."""
    mean = sum(patch) / len(patch)
    variance = sum((x - mean) ** 2 for x in patch) / (len(patch) - 1)
    return [(x - mean) / math.sqrt(variance + 1e-6) for x in patch]


def error_slowly(predicted, patches, kept):
    """Mean over the pixels of a patch, then over the patches that are not kept."""
    errors = []
    for picture, visible in enumerate(kept):
        for n, patch in enumerate(patches[picture]):
            if n in visible:
                continue
            target = normalised_slowly(patch)
            pairs = zip(predicted[picture][n], target, strict=True)
            errors.append(sum((a - b) ** 2 for a, b in pairs) / len(patch))
    return sum(errors) / len(errors)


def position_slowly(row, column, width):
    """`get_2d_sincos_pos_embed` of the authors' code, for one patch."""
    wave = []
    for coordinate in (column, row):
        angles = [coordinate / 10_000 ** (i / (width / 4)) for i in range(width // 4)]
        wave += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    return wave


@dataclasses.dataclass(frozen=True)
class Case:
    """Predictions and pixels (B, N, P) float64, and the visible patches (B, K) int64."""

    predicted: torch.Tensor
    patches: torch.Tensor
    kept: torch.Tensor

    @property
    def placement(self):
        return placed(self.kept, self.patches.shape[1], self.patches.dtype)


@st.composite
def cases(draw):
    count, patches, pixels = (draw(st.integers(low, 6)) for low in (1, 2, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    shape = (2, count, patches, pixels)
    both = torch.randn(shape, generator=generator, dtype=torch.float64)
    order = torch.rand(count, patches, generator=generator).argsort(1)
    kept = order[:, : draw(st.integers(1, patches - 1))].sort(1)[0]
    return Case(both[0], draw(st.sampled_from([0.01, 1.0, 100.0])) * both[1], kept)


def same(value):
    return pytest.approx(value, rel=1e-11, abs=1e-12)


@given(cases())
@settings(deadline=None)
def test_targets_and_loss_are_their_definitions(case):
    targets = [[normalised_slowly(patch) for patch in each] for each in case.patches.tolist()]
    np.testing.assert_allclose(
        normalised_targets(case.patches), targets, rtol=1e-10, atol=1e-12
    )
    wanted = error_slowly(case.predicted.tolist(), case.patches.tolist(), case.kept.tolist())
    actual = hidden_error(case.predicted, case.patches, case.placement)
    assert actual.item() == same(wanted)


@given(cases())
@settings(deadline=None)
def test_the_gradient_of_the_loss_is_that_of_its_definition(case):
    actual = gradient_of(
        lambda x: hidden_error(x, case.patches, case.placement), case.predicted
    )
    patches, kept = case.patches.tolist(), case.kept.tolist()
    wanted = differences(lambda x: error_slowly(x, patches, kept), case.predicted.numpy())
    np.testing.assert_allclose(actual, wanted, **DIFFERENCES)


@given(cases(), st.floats(-1000, 1000), st.floats(0.1, 10))
@settings(deadline=None)
def test_targets_do_not_depend_on_brightness_and_contrast(case, shift, scale):
    """Up to the 1e-6 that is added to the variance."""
    bright = normalised_targets(scale * case.patches.abs().clamp(min=0.1) + shift)
    plain = normalised_targets(case.patches.abs().clamp(min=0.1))
    variance = case.patches.abs().clamp(min=0.1).var(dim=2, keepdim=True)
    wide = (variance > 0.01).expand_as(plain)
    torch.testing.assert_close(bright[wide], plain[wide], rtol=1e-2, atol=1e-3)


def test_a_patch_of_one_colour_is_zero_and_not_nan():
    """Up to the rounding of its mean, over the root of 1e-6."""
    targets = normalised_targets(torch.full((1, 1, 12), 0.7))
    assert targets.abs().max() < 1e-3


@given(cases(), st.integers(0, 1000))
@settings(deadline=None)
def test_the_loss_does_not_depend_on_visible_pixels(case, seed):
    """Nor on what is predicted for them: only the encoder's input has them."""
    generator = torch.Generator().manual_seed(seed)
    visible = case.placement.sum(dim=2, keepdim=True) > 0
    noise = torch.randn(case.patches.shape, generator=generator, dtype=torch.float64)
    patches = torch.where(visible, 100 * noise, case.patches)
    predicted = torch.where(visible, 50 * noise, case.predicted)
    before = hidden_error(case.predicted, case.patches, case.placement)
    assert hidden_error(predicted, patches, case.placement).item() == same(before.item())


@given(cases())
@settings(deadline=None)
def test_visible_tokens_go_to_their_places(case):
    places = case.placement @ case.predicted[:, : case.kept.shape[1]]  # the first K as tokens
    for picture, visible in enumerate(case.kept.tolist()):
        for n in range(case.patches.shape[1]):
            token = torch.zeros(case.patches.shape[2], dtype=torch.float64)
            if n in visible:
                token = case.predicted[picture, visible.index(n)]
            assert torch.equal(places[picture, n], token)


# The whole objective.


def random_weights(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        p.name: torch.randn(p.shape, generator=generator, dtype=torch.float64) / 2
        for p in BOUND.declaration.parameters
    }


def step_of(weights, tokens, kept, patches):
    encoding = Encoding(features=tokens[:, :, 0], kept=kept[None], tokens=tokens)
    return StepContext(
        weights=weights,
        teacher_weights={},
        student={"global": encoding},
        teacher={},
        patches={"global": patches[None]},
        draws={},
        hyper={},
        buffers={},
        recorded={},
    )


def tokens_and_patches(seed, visible):
    """Tokens (1, B, 1 + K, D), visible patches (B, K) and pixels (B, N, P)."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(
        1, BATCH, 1 + visible, WIDTH, generator=generator, dtype=torch.float64
    )
    patches = torch.randn(BATCH, PATCHES, PIXELS, generator=generator, dtype=torch.float64)
    order = torch.rand(BATCH, PATCHES, generator=generator).argsort(1)
    return tokens, order[:, :visible].sort(1)[0], patches


@pytest.mark.parametrize("visible", [1, 3, 8])
def test_mae_is_its_definition(visible):
    """`forward_decoder` and `forward_loss`, a picture and a token at a time."""
    weights = random_weights(1)
    tokens, kept, patches = tokens_and_patches(2, visible)
    actual = BOUND.loss(step_of(weights, tokens, kept, patches))
    predicted = []
    for picture in range(BATCH):
        embedded = vit.affine(weights, "decoder.embed", tokens[0, picture])  # (1 + K, E)
        row = [weights["decoder.mask_token"][0, 0]] * PATCHES
        for k, n in enumerate(kept[picture].tolist()):
            row[n] = embedded[1 + k]
        for n in range(PATCHES):
            row[n] = row[n] + torch.tensor(position_slowly(n // 3, n % 3, 8))
        x = torch.stack([embedded[0], *row])[None]
        for block in ("decoder.blocks.0", "decoder.blocks.1"):
            x = vit.block(weights, block, 1, x)
        x = vit.layer_norm(weights, "decoder.norm", x)
        predicted.append(vit.affine(weights, "decoder.pred", x[0, 1:]).tolist())
    wanted = error_slowly(predicted, patches.tolist(), kept.tolist())
    # Positions are rounded to float32 on both sides
    assert actual.loss.item() == pytest.approx(wanted, rel=1e-6)
    assert (actual.metrics, actual.buffers) == ({}, {})


def test_pixels_of_visible_patches_reach_the_loss_through_the_encoder_alone():
    weights = random_weights(3)
    tokens, kept, patches = tokens_and_patches(4, 3)
    before = BOUND.loss(step_of(weights, tokens, kept, patches)).loss
    visible = placed(kept, PATCHES, torch.float64).sum(dim=2, keepdim=True)
    other = patches + visible * torch.arange(PIXELS)
    assert BOUND.loss(step_of(weights, tokens, kept, other)).loss == before
    hidden = patches + (1 - visible) * torch.arange(PIXELS)
    assert BOUND.loss(step_of(weights, tokens, kept, hidden)).loss != before
    moved = BOUND.loss(step_of(weights, tokens + 0.1, kept, patches)).loss
    assert moved != before


def table(**changes):
    model = {"image_size": 16, "patch_size": 4, "depth": 2, "width": 16, "heads": 2}
    method = {"name": "mae", "decoder_width": 16, "decoder_depth": 1}
    return {"model": model, "method": method, "batch_size": 4, **changes}


def test_the_student_never_sees_a_hidden_pixel():
    """Through the real encoder: other hidden pixels change the loss by the targets alone."""
    program = Program(make_recipe(table(), where="test"))
    rung = program.bind(program.settings[0])
    state = {name: value.double() for name, value in program.initial_state().items()}
    weights = {name: state[f"param.{name}"] for name in program.parameters}
    inputs = {**state, **example_images(rung), **example_draws(rung)}
    images, kept = inputs["images.global"], inputs["keep.global"][0].long()  # (B, 4)
    flat = vit.cut_patches(images[0], 4)  # (B, 16, P)
    visible = placed(kept, 16, torch.float64).sum(dim=2) > 0
    # Every hidden patch mirrored: the same mean and deviation, other pixels
    mirrored = torch.where(visible[:, :, None], flat, 255 - flat)
    rows = mirrored.reshape(4, 4, 4, 4, 4, 3).permute(0, 1, 3, 2, 4, 5)
    other = {**inputs, "images.global": rows.reshape(1, 4, 16, 16, 3)}

    def predictions(given):
        seen = []
        original = MAE._decoded
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MAE, "_decoded", lambda *a: seen.append(original(*a)) or seen[-1])
            loss, _ = rung.loss(weights, given)
        return seen[0], loss

    before, loss = predictions(inputs)
    after, other_loss = predictions(other)
    assert torch.equal(before, after)
    assert loss != other_loss


# Declarations and refusals.


def test_one_view_without_colour_and_no_teacher():
    declared = BOUND.declaration
    (group,) = declared.views
    (view,) = group.views
    assert (view.min_area, view.max_area, view.flip) == (0.2, 1.0, 0.5)
    assert (view.jitter, view.grayscale, view.blur, view.solarize) == (0, 0, 0, 0)
    assert (declared.teacher, declared.buffers) == ((), ())
    assert declared.micro_batch_refusal is None


@pytest.mark.parametrize(("width", "heads"), [(4, 1), (48, 1), (96, 3), (100, 2), (512, 16)])
def test_heads_of_the_decoder_are_about_32_wide(width, heads):
    assert MAE(MODEL, MaeOptions(decoder_width=width))._heads == heads


def test_the_ladder_is_the_papers_share_by_default():
    assert make_recipe(table(), where="test").keep_ratios == (0.25, 0.15)
    given = make_recipe(table(keep_ratios=[0.6]), where="test")
    assert given.keep_ratios == (0.6,)


SEES_ALL = (
    "tokens.name: method mae predicts patches that its encoder does not see, and with token "
    "policy {!r} it sees all of them; use 'random'"
)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"keep_ratios": [0.5, 1.0]},
            "keep_ratios: 1 keeps all 16 patches, which leaves none for method mae to "
            "predict; the nearest that does is 0.937, and its default is [0.25, 0.15]",
        ),
        (
            {"keep_ratios": [0.95]},
            "keep_ratios: 0.95 keeps all 16 patches, which leaves none for method mae to "
            "predict; the nearest that does is 0.937, and its default is [0.25, 0.15]",
        ),
        ({"tokens": {"name": "none"}, "keep_ratios": [1.0]}, SEES_ALL.format("none")),
        ({"tokens": {"name": "simprune"}}, SEES_ALL.format("simprune")),
        ({"tokens": {"name": "random+simprune"}}, SEES_ALL.format("random+simprune")),
        (
            {"patch_sizes": [4, 8]},
            "patch_sizes: method mae predicts patches of one size; 8 px is not the model's 4 "
            "px, the only one that works",
        ),
        (
            {"method": {"name": "mae", "decoder_width": 50}},
            "method.decoder_width: 50 is not a multiple of 4, as positions need; the nearest "
            "is 48",
        ),
        (
            {"optimizer": {"ema_momentum": 0.9}},
            "optimizer.ema_momentum: method mae has no EMA teacher",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_work_is_refused(changes, problem):
    with pytest.raises(ConfigError) as caught:
        make_recipe(table(**changes), where="mine.toml")
    assert str(caught.value).splitlines()[1:] == [f"  {problem}"]


def test_the_nearest_keep_ratio_works():
    make_recipe(table(keep_ratios=[0.937]), where="test")
    make_recipe(table(tokens={"name": "none+random"}), where="test")
    assert keep_ratios("mae", "random") == [0.5]
    assert keep_ratios("mae", "none") == keep_ratios("mae", "simprune") == []


# Training.


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Keep-ratio 0.25; the whole batch, and parts of two and of one."""
    folder = tmp_path_factory.mktemp("mae") / "package"
    recipe = make_recipe(table(keep_ratios=[0.25], micro_batches=[2, 1]), where="test")
    return export_package(recipe, folder, init=None, report=lambda *_: None, verify_all=True)


def after(package, rung_id):
    with create_engine("ort", threads=1) as engine:
        engine.open(package, package.initial_state())
        batch = noise_batch(package, package.manifest.rungs[0].id, 1)
        loss = engine.step(rung_id, batch, hyper_of(package, 1)).metrics["loss"]
        return loss, engine.snapshot()


def test_micro_batches_are_the_step_of_the_whole_batch(package):
    whole, *others = package.manifest.rungs
    loss, state = after(package, whole.id)
    for rung in others:
        part_loss, part_state = after(package, rung.id)
        assert part_loss == pytest.approx(loss, rel=1e-5)
        for name in (name for name in state if name.startswith("exp_avg")):
            error = np.linalg.norm(part_state[name] - state[name])
            assert error <= 1e-5 * np.linalg.norm(state[name]) + 1e-8, name


def test_the_encoder_sees_visible_tokens_alone(package):
    assert package.manifest.rungs[0].tokens_per_block == {"global": (5, 5)}
