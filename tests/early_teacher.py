"""Recipes whose EMA teacher runs before the step, and the same ones with it in the step."""

from typing import Any

SMALL: dict[str, Any] = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 2, "width": 32, "heads": 2},
    "tokens": {"name": "random"},
    "batch_size": 4,
    "keep_ratios": [1.0, 0.5],
}
METHODS: dict[str, dict[str, Any]] = {
    "mocov3": {"projector_width": 16, "projector_out": 8},
    "byol": {"projector_width": 16, "projector_out": 8, "head_norm": "layer"},
    "dino": {"projector_width": 16, "projector_out": 8, "prototypes": 16, "local_views": 1},
}


def table_of(method: str, delay: int | None, **changes: Any) -> dict[str, Any]:
    """A recipe's table; `delay` None: the teacher in the step."""
    table = {"name": method, **METHODS[method]}
    if delay is not None:
        table["teacher_delay"] = delay
    return {**SMALL, "method": table, **changes}
