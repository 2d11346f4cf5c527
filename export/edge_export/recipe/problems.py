"""Problems of a recipe beyond names, types and ranges; all at once."""

import math
from collections.abc import Iterator

from edge_export.axes import ALL, rank_of, trained_names
from edge_export.objectives import (
    OBJECTIVES,
    DistillationAlone,
    Objective,
    objective_named,
)
from edge_export.parametrizations import Lora
from edge_export.policies import POLICIES, TokenPolicy, policies_named, uses_keep_ratio
from edge_export.policies.base import kept_count
from edge_export.policies.ranked import RankedPolicy
from edge_export.recipe.tables import Recipe
from edge_runtime.errors import ConfigError
from edge_runtime.package.names import PRECISIONS

MOST_RUNGS = 200


def problems_of(recipe: Recipe) -> list[str]:
    """Problems, one entry each; empty for a valid recipe."""
    problems = list(_ladder(recipe))
    options = list(dict.fromkeys(_options(recipe)))
    # The method's declaration needs a valid model and valid options.
    return [*problems, *options] if options else [*problems, *_declared(recipe)]


def _options(recipe: Recipe) -> Iterator[str]:
    """Problems of the model, and of the parts with a name and options."""
    for check in (
        recipe.facts,
        recipe.method_options,
        lambda: _policies(recipe),
        recipe.parametrization_options,
        recipe.frozen_facts,
    ):
        try:
            check()
        except ConfigError as error:
            yield str(error)


def _policies(recipe: Recipe) -> None:
    name = recipe.tokens.name
    for policy in policies_named(name):
        recipe.token_options(policy)
    if recipe.keep_ratios != (1.0,) and not uses_keep_ratio(name):
        raise ConfigError(
            f"keep_ratios: token policy {name!r} keeps all tokens; give 1.0 alone"
        )


def _declared(recipe: Recipe) -> Iterator[str]:
    """Problems with the method's declaration for this model."""
    model = recipe.facts()
    try:
        method = objective_named(recipe.method.name)(model, recipe.method_options())
    except ConfigError as error:
        yield str(error)
        return
    refusal = method.declaration.micro_batch_refusal
    if refusal is not None and any(n < recipe.batch_size for n in recipe.micro_batches):
        yield (
            f"micro_batches: method {method.name} needs the whole batch: {refusal}; "
            "docs/recipe.md says which do not"
        )
    yield from _patch_sizes(recipe, method)
    yield from _teacher(recipe, method)
    yield from _teacher_first(recipe, method)
    yield from _distillation(recipe, method)
    if method.declaration.predicts_hidden and _embeds_all(recipe):
        yield _sees_hidden(recipe, method)
    else:
        yield from _token_policy(recipe, method)
    yield from _low_rank(recipe)
    yield from _repair_tokens(recipe)
    if method.declaration.predicts_hidden:
        yield from _hidden(recipe, method)
    try:
        recipe.augmented(method.declaration.views)
        for trained in recipe.trained:
            trained_names([], trained, model)
    except ConfigError as error:
        yield str(error)


def _patch_sizes(recipe: Recipe, method: Objective) -> Iterator[str]:
    """Patch sizes that do not divide the views."""
    for size_px in recipe.patch_sizes:
        for group in method.declaration.views:
            if group.pruned and group.size_px % size_px:
                yield (
                    f"patch_sizes: {size_px} px does not divide the {group.size_px} px of "
                    f"view group {group.name!r}"
                )


def _distillation(recipe: Recipe, method: Objective) -> Iterator[str]:
    """Terms of distillation that are missing, or cannot be."""
    if method.name == DistillationAlone.name and not recipe.distillation.weight:
        yield (
            f"distillation.weight: method {method.name} has no other loss; give a weight, "
            "such as 1.0, and a teacher"
        )
    if recipe.self_distillation.weight and recipe.facts().depth < 2:
        yield (
            "self_distillation.weight: a model of one block has no features before its last; "
            "use model.depth 2 or more, or weight 0"
        )


def _token_policy(recipe: Recipe, method: Objective) -> Iterator[str]:
    """The first problem of the token policy with the method, if any."""
    try:
        for rung in recipe.rungs()[:MOST_RUNGS]:
            recipe.token_policy(method.declaration, rung)
    except ConfigError as error:
        yield str(error)


def _embeds_all(recipe: Recipe) -> bool:
    """Whether the student may see every patch."""
    policies = [each for each in policies_named(recipe.tokens.name) if each is not TokenPolicy]
    return not policies or not all(policy.hides_patches for policy in policies)


def _sees_hidden(recipe: Recipe, method: Objective) -> str:
    nearest = next(each.name for each in POLICIES.values() if each.hides_patches)
    return (
        f"tokens.name: method {method.name} predicts patches that its encoder does not see, "
        f"and with token policy {recipe.tokens.name!r} it sees all of them; use {nearest!r}"
    )


def _low_rank(recipe: Recipe) -> Iterator[str]:
    """Problems of rungs that train low-rank factors, and of factors that none trains."""
    ranks = sorted({rank for trained in recipe.trained if (rank := rank_of(trained))})
    name = recipe.parametrization.name
    if len(ranks) > 1:
        yield (
            "trained: a package has low-rank factors of one rank, and its rungs train those "
            f"of {' and '.join(map(str, ranks))}; choose one of them"
        )
    elif ranks and name != Lora.name:
        yield (
            f"parametrization.name: {name!r} does not combine with 'lora-{ranks[0]}' in "
            f"trained, which needs {Lora.name!r}, its default there"
        )
    elif name == Lora.name and ranks != [rank := recipe.parametrization_options().rank]:
        yield (
            f"parametrization.rank: no rung trains factors of rank {rank}; add 'lora-{rank}' "
            "to trained"
        )


def _repair_tokens(recipe: Recipe) -> Iterator[str]:
    """Repair tokens that no rung trains."""
    if RankedPolicy not in policies_named(recipe.tokens.name) or ALL in recipe.trained:
        return
    if recipe.token_options(RankedPolicy).repair:
        yield f"tokens.repair: no rung trains them; add {ALL!r} to trained, or leave them out"


def _hidden(recipe: Recipe, method: Objective) -> Iterator[str]:
    """Problems of the ladder of a method that predicts hidden patches."""
    model = recipe.facts()
    patches = model.tokens - 1
    full = [r for r in recipe.keep_ratios if kept_count(r, patches) == patches]
    if full and not _embeds_all(recipe):
        nearest_ratio = math.floor(1000 * (patches - 1) / patches) / 1000
        yield (
            f"keep_ratios: {full[0]:g} keeps all {patches} patches, which leaves none for "
            f"method {method.name} to predict; the nearest that does is {nearest_ratio:g}, "
            f"and its default is {list(method.defaults.keep_ratios or ())}"
        )
    if others := [size for size in recipe.patch_sizes if size != model.patch_size_px]:
        yield (
            f"patch_sizes: method {method.name} predicts patches of one size; {others[0]} px "
            f"is not the model's {model.patch_size_px} px, the only one that works"
        )


def _ladder(recipe: Recipe) -> Iterator[str]:
    ratios, sizes = recipe.keep_ratios, recipe.micro_batches
    patches, trained = recipe.patch_sizes or (0,), recipe.trained
    if (rungs := len(ratios) * len(patches) * len(trained) * (1 + len(sizes))) > MOST_RUNGS:
        yield f"the ladder has {rungs} rungs; expected at most {MOST_RUNGS}"
    if len({f"{ratio:g}" for ratio in ratios}) < len(ratios):  # as in names of rungs
        yield "keep_ratios: each at most once, and different in six digits"
    for key in ("keep_ratios", "trained"):
        if not getattr(recipe, key):
            yield f"{key}: expected at least one"
    for key in ("patch_sizes", "trained", "micro_batches"):
        values = getattr(recipe, key)
        if len(set(values)) < len(values):
            yield f"{key}: each at most once"
    if recipe.precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        yield f"precision: unknown {recipe.precision!r}; known are {known}"
    for size in sizes:
        if recipe.batch_size % size:
            whole = next(n for n in range(size, 0, -1) if recipe.batch_size % n == 0)
            yield (
                f"micro_batches: {size} does not divide the batch size {recipe.batch_size}; "
                f"{whole} does"
            )


def _teacher(recipe: Recipe, method: Objective) -> Iterator[str]:
    """Problems with the momentum of the EMA teacher, and of one that does not exist."""
    table = recipe.optimizer
    if method.declaration.teacher:
        if table.ema_momentum is None and method.defaults.ema_momentum is None:
            yield f"optimizer.ema_momentum: method {method.name} has no default; give one"
        return
    for key in ("ema_momentum", "final_ema_momentum"):
        if getattr(table, key) is not None:
            yield f"optimizer.{key}: method {method.name} has no EMA teacher"


def _teacher_first(recipe: Recipe, method: Objective) -> Iterator[str]:
    """Problems of a teacher that runs before the step's graph."""
    if recipe.method.teacher_delay is None:
        return
    declared, size_px = method.declaration, recipe.facts().image_size_px
    if not declared.teacher:
        made = {
            name: each(recipe.facts(), each.options()) for name, each in OBJECTIVES.items()
        }
        names = [name for name, each in made.items() if each.declaration.teacher]
        yield (
            f"method.teacher_delay: method {method.name} has no EMA teacher that could run "
            f"before the step; leave it out, or use {' or '.join(names)}"
        )
        return
    for group in declared.views:
        if group.teacher and group.patch_tokens:
            yield (
                f"method.teacher_delay: method {method.name} reads the teacher's tokens of "
                f"view group {group.name!r}, and its own graph gives features; leave it out"
            )
        if group.teacher and group.size_px != size_px:
            yield (
                f"method.teacher_delay: the teacher's own graph takes images of {size_px} px, "
                f"and method {method.name} shows it view group {group.name!r} of "
                f"{group.size_px} px; leave it out"
            )
