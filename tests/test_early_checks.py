"""What cannot work on a rung is found on shapes alone, before any graph is lowered."""

from dataclasses import dataclass, replace

import pytest

torch = pytest.importorskip("torch", reason="packages are exported with PyTorch")

from edge_export.declaration import (  # noqa: E402
    TEACHER,
    Declaration,
    LossResult,
    ObjectiveDeclaration,
    ViewGroup,
)
from edge_export.objectives import OBJECTIVES  # noqa: E402
from edge_export.objectives.base import Defaults, Objective  # noqa: E402
from edge_export.package.build import export_package  # noqa: E402
from edge_export.parameters import Buffer, Parameter  # noqa: E402
from edge_export.parametrizations import PARAMETRIZATIONS, Parametrization  # noqa: E402
from edge_export.policies import POLICIES, TokenPolicy  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402
from edge_runtime.package.curves import constant  # noqa: E402
from edge_runtime.package.manifest import AugmentationSpec  # noqa: E402

SIZES = {"image_size": 16, "patch_size": 4, "depth": 4, "width": 16, "heads": 1}
VIEW = AugmentationSpec(min_area=0.5)


def refused(folder, **table):
    """The refusal of an export, and the stages before it."""
    stages = []
    recipe = make_recipe({"model": SIZES, "batch_size": 4, **table}, where="test")
    with pytest.raises(ConfigError) as caught:
        export_package(
            recipe,
            folder / "package",
            init=None,
            report=lambda stage, *_: stages.append(stage),
        )
    assert not [stage for stage in stages if "graph" in stage]
    assert list(folder.iterdir()) == []
    return str(caught.value)


@dataclass(frozen=True, slots=True)
class Options:
    """None."""


class Probe(Objective):
    """A mean over features, with what a test sets."""

    name = "probe"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=2)
    options = Options
    metrics: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    local_px: int | None = None
    patch_px: int | None = None  # of the only patches that the loss can take

    def __init__(self, model, options):
        views = [ViewGroup(name="global", size_px=model.image_size_px, views=(VIEW, VIEW))]
        if self.local_px is not None:
            views.append(
                ViewGroup(name="local", size_px=self.local_px, views=(VIEW,), pruned=False)
            )
        self.declaration = ObjectiveDeclaration(
            views=tuple(views),
            buffers=tuple(Buffer(name=name, initial=torch.zeros(())) for name in self.buffers),
        )

    def loss(self, step):
        loss = step.student["global"].features.square().mean()
        if self.patch_px is not None:
            pixels = step.patches["global"]  # (V, B, N, P)
            loss = loss + (pixels * torch.ones(self.patch_px**2 * 3)).mean()
        return LossResult(
            loss=loss,
            metrics=dict.fromkeys(self.metrics, loss),
            buffers={name: step.buffers[name] + 1 for name in self.buffers},
        )


@pytest.fixture
def probe(monkeypatch):
    """Make recipes know a `Probe` with these attributes."""

    def known(**attributes):
        kind = type("ThisProbe", (Probe,), attributes)
        monkeypatch.setitem(OBJECTIVES, Probe.name, kind)
        return {"name": Probe.name}

    return known


def known_policy(monkeypatch, kind):
    monkeypatch.setitem(POLICIES, kind.name, kind)
    return {"name": kind.name}


# Parts that do not fit together


def test_a_loss_that_takes_no_other_patch_size(tmp_path, probe, caplog):
    method = probe(patch_px=4)
    message = refused(tmp_path, method=method, tokens={"name": "none"}, patch_sizes=[4, 8])
    assert message.startswith("rung k100-p8 of this recipe cannot be built: ")
    assert "192" in message  # pixels of a patch
    assert message.endswith("or the axis on which this rung differs.")
    assert caplog.records == []  # torch would print a traceback


def test_a_local_view_that_the_patches_do_not_divide(tmp_path, probe):
    message = refused(tmp_path, method=probe(local_px=6), keep_ratios=[1.0])
    assert message == "rung k100: patches of 4 px do not divide images of 6 px."


@pytest.mark.parametrize("teacher", [(), ("encoder.norm.",)], ids=str)
def test_a_teacher_that_is_evaluated_and_has_no_encoder(monkeypatch, teacher):
    class Evaluated(Probe):
        defaults = Defaults(lr_at_256=1, weight_decay=0, warmup_epochs=0, ema_momentum=0.9)

        def __init__(self, model, options):
            super().__init__(model, options)
            self.declaration = replace(self.declaration, evaluated=TEACHER, teacher=teacher)

    monkeypatch.setitem(OBJECTIVES, Probe.name, Evaluated)
    recipe = make_recipe({"model": SIZES, "method": {"name": "probe"}}, where="test")
    message = (
        "declares that the teacher's encoder is evaluated, and its teacher copies only part"
    )
    with pytest.raises(ConfigError, match=message):
        Program(recipe)


# Names


class Named(TokenPolicy):
    """Reports, changes and selects by the names that a test sets."""

    name = "named"
    metrics: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    selection: str | None = None

    def before_mlp(self, block, branches, attention):
        if block == 0 and self.selection is not None:
            branches.selected[self.selection] = branches.student.kept

    def loss(self, step):
        zero = torch.zeros(())
        return LossResult(
            loss=zero,
            metrics=dict.fromkeys(self.metrics, zero),
            buffers=dict.fromkeys(self.buffers, zero),
        )


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"metrics": ("spread",)}, "metric 'spread' is given twice; it needs another name."),
        ({"buffers": ("centre",)}, "buffer 'centre' is given twice; it needs another name."),
    ],
    ids=str,
)
def test_a_name_of_two_parts(tmp_path, monkeypatch, probe, attributes, message):
    tokens = known_policy(monkeypatch, type("Same", (Named,), attributes))
    method = probe(metrics=("spread",), buffers=("centre",))
    assert refused(tmp_path, method=method, tokens=tokens) == f"rung k100: {message}"


def test_a_selection_of_two_policies(tmp_path, monkeypatch):
    for name in ("first", "second"):
        attributes = {"name": name, "selection": "chosen"}
        known_policy(monkeypatch, type(name, (Named,), attributes))
    message = refused(tmp_path, tokens={"name": "first+second"})
    assert message == "rung k100: selection 'chosen' is given twice; it needs another name."


def test_a_selection_of_two_view_groups(tmp_path, monkeypatch, probe):
    """The policy's name does not contain the view group's."""

    class Groups(Probe):
        def __init__(self, model, options):
            views = tuple(
                ViewGroup(name=name, size_px=16, views=(VIEW,)) for name in ("global", "more")
            )
            self.declaration = ObjectiveDeclaration(views=views)

    monkeypatch.setitem(OBJECTIVES, Probe.name, Groups)
    tokens = known_policy(monkeypatch, type("One", (Named,), {"selection": "chosen"}))
    message = refused(tmp_path, method={"name": Probe.name}, tokens=tokens)
    assert message == "rung k100: selection 'chosen' is given twice; it needs another name."


def test_a_selection_with_the_name_of_a_metric(tmp_path, monkeypatch, probe):
    tokens = known_policy(monkeypatch, type("One", (Named,), {"selection": "spread"}))
    message = refused(tmp_path, method=probe(metrics=("spread",)), tokens=tokens)
    assert message == "rung k100: selection 'spread' is given twice; it needs another name."


def test_a_metric_with_the_name_of_the_loss(tmp_path, probe):
    message = refused(tmp_path, method=probe(metrics=("loss",)), keep_ratios=[1.0])
    assert message == "rung k100: metric 'loss' is given twice; it needs another name."


@pytest.mark.parametrize("name", ["lr", "step", "images.global"])
def test_a_metric_with_the_name_of_an_input(tmp_path, probe, name):
    message = refused(tmp_path, method=probe(metrics=(name,)), keep_ratios=[1.0])
    assert message == (
        f"rung k100: {name!r} is both an input and an output of a step; it needs another name."
    )


# Declarations


class Changing(TokenPolicy):
    """Declares other things on the second rung."""

    name = "changing"
    uses_keep_ratio = True
    other = Declaration()

    @property
    def declaration(self):
        return Declaration() if self.setting.keep_ratio == 1.0 else self.other


OTHER = {
    "parameters": Declaration(parameters=(Parameter(name="p", shape=(1,), init="ones"),)),
    "buffers": Declaration(buffers=(Buffer(name="b", initial=torch.zeros(())),)),
    "hyper-parameters": Declaration(hyper_parameters={"h": constant(1.0)}),
}


@pytest.mark.parametrize("ratios", [[1.0, 0.5], [0.5, 1.0]], ids=str)
@pytest.mark.parametrize("kind", OTHER)
def test_a_policy_that_declares_other_things_on_another_rung(
    tmp_path, monkeypatch, kind, ratios
):
    tokens = known_policy(monkeypatch, type("This", (Changing,), {"other": OTHER[kind]}))
    message = refused(tmp_path, tokens=tokens, keep_ratios=ratios)
    second = "k050" if ratios[1] == 0.5 else "k100"
    assert message == (
        f"rung {second}: the token policy declares other {kind} than on the first rung; only "
        "draws may differ between rungs."
    )


def test_a_parametrization_that_declares_other_things_on_another_rung(tmp_path, monkeypatch):
    class Ranked(Parametrization):
        name = "ranked"

        @property
        def declaration(self):
            rank = int(8 * self.setting.rung.keep_ratio)
            return Declaration(buffers=(Buffer(name="b", initial=torch.zeros(rank)),))

    monkeypatch.setitem(PARAMETRIZATIONS, Ranked.name, Ranked)
    message = refused(tmp_path, parametrization={"name": "ranked"}, keep_ratios=[1.0, 0.5])
    assert message.startswith("rung k050: the parametrization declares other buffers than on")


# The ladder of a policy without keep-ratio


class Merging(TokenPolicy):
    """A policy that changes tokens, whatever the keep-ratio."""

    name = "merging"
    uses_keep_ratio = False


def test_a_policy_without_keep_ratio_has_one_rung(monkeypatch):
    tokens = known_policy(monkeypatch, Merging)
    recipe = make_recipe({"model": SIZES, "tokens": tokens}, where="test")
    assert recipe.keep_ratios == (1.0,)
    combined = {"model": SIZES, "tokens": {"name": "none+merging"}}
    assert make_recipe(combined, where="test").keep_ratios == (1.0,)
    with_random = {"model": SIZES, "tokens": {"name": "random+merging"}}
    assert make_recipe(with_random, where="test").keep_ratios == (1.0, 0.75, 0.5)


@pytest.mark.parametrize("ratios", [[1.0, 0.5], [0.5]], ids=str)
def test_a_policy_without_keep_ratio_refuses_other_ratios(monkeypatch, ratios):
    tokens = known_policy(monkeypatch, Merging)
    message = "keep_ratios: token policy 'merging' keeps all tokens; give 1.0 alone"
    with pytest.raises(ConfigError, match=message):
        make_recipe({"model": SIZES, "tokens": tokens, "keep_ratios": ratios}, where="test")
