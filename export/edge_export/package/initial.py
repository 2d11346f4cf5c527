"""Start from a timm checkpoint instead of fresh weights, or say why it cannot be used."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import interpolate

from edge_export.models import FAMILIES
from edge_export.parameters import Parameter
from edge_export.vit import ENCODER, MLP_RATIO
from edge_runtime.errors import ConfigError
from edge_runtime.package.encoder import from_timm
from edge_runtime.package.manifest import EncoderTensor, ModelFacts
from edge_runtime.reading import MAX_STATE_BYTES, open_regular

POSITIONS = "pos_embed"
KERNEL = "patch_embed.proj.weight"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
CLASSIFIER = ("head.", "pre_logits.")  # timm's layers after the features
AXES = {"transposed": 2, "patch": 4}  # of a tensor in timm's layout
# What other models have and a plain ViT does not, by the names of their tensors in timm
FOREIGN = {
    r"(reg_token|register_tokens)": "register tokens",
    r"(dist_token|head_dist\..*)": "a distillation token (a distilled DeiT)",
    r"blocks\.\d+\.(ls[12]|gamma_[12]).*": "LayerScale",
    r"fc_norm\..*": "average pooling before the last norm (fc_norm)",
    r"attn_pool\..*": "attention pooling",
    r"norm_pre\..*": "a norm before the blocks, as CLIP has",
    r"blocks\.\d+\.attn\.[qk]_norm\..*": "normalised queries and keys",
    r"blocks\.\d+\.mlp\.(w12|w3|fc1_[gx])\..*": "SwiGLU",
    r".*(relative_position|rel_pos).*": "relative positions",
    r"(layers|stages)\.\d+\..*": "stages, as a Swin or a convolutional network has",
}
LACKING = {
    "cls_token": "no class token",
    POSITIONS: "no position embeddings",
    "blocks.0.attn.qkv.bias": "queries, keys and values without biases",
}
MODEL = "model"  # the recipe's table
SIZE_FLAGS = {  # of the model itself
    "name": "--model",
    "depth": "--depth",
    "width": "--width",
    "heads": "--heads",
    "patch_size": "--patch-size",
}
# First bytes of the files that torch.save writes, now and formerly
_PICKLES = (b"PK\x03\x04", b"\x80")
_PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar")
_STATE = "param.encoder."  # of a package or a checkpoint of ours
_BLOCK = re.compile(r"blocks\.(\d+)\.")

Tensors = dict[str, Tensor]


class Source(NamedTuple):
    """A checkpoint, and the flag that names it and flags of its model."""

    path: Path
    flag: str
    model: str  # the recipe's table of its model

    def __str__(self) -> str:
        return f"{self.flag} {self.path}"

    def flag_for(self, key: str, value: object) -> str:
        """The flag that gives a key of the model this value."""
        if self.model == MODEL and key in SIZE_FLAGS:
            return f"{SIZE_FLAGS[key]} {value}"
        return f"--set '{self.model}.{key}={value}'"


def encoder_source(path: Path) -> Source:
    """The checkpoint from which the encoder starts."""
    return Source(path, "--init", MODEL)


def frozen_source(path: Path) -> Source:
    """The checkpoint of the frozen encoder."""
    return Source(path, "--teacher", "distillation.teacher")


class OtherSize(NamedTuple):
    """A size or normalisation in which a checkpoint is not the model."""

    name: str
    theirs: object
    ours: str
    flag: str  # that exports the checkpoint's


def encoder_from_timm(
    source: Source,
    model: ModelFacts,
    declared: Sequence[Parameter],
) -> Tensors:
    """The encoder's parameters by name, float32, from a timm ViT's .safetensors file.

    Names may have a prefix, such as `module.`. A classifier in the file is ignored. Positions
    are resized if the grid differs. Floating-point values of any size become float32.

    Args:
        source: the file.
        model: the encoder.
        declared: its parameters.

    Raises:
        ConfigError: unreadable, damaged, no safetensors, of another kind of model, of other
            sizes, or with values that are no finite numbers.
    """
    tensors, facts = read_tensors(source)
    encoder = encoder_tensors(declared)
    checkpoint = _without_prefix(source, tensors, [tensor.timm_name for tensor in encoder])
    _refuse_others(source, checkpoint, facts, model, encoder)
    arrays = {
        tensor.timm_name: checkpoint[tensor.timm_name].to(torch.float32).numpy()
        for tensor in encoder
    }
    values = {name: torch.from_numpy(v) for name, v in from_timm(encoder, arrays).items()}
    problems = []
    shapes = {parameter.name: parameter.shape for parameter in declared}
    for name, value in values.items():
        wanted = shapes[name]
        if name.endswith(POSITIONS) and value.shape[1:] != wanted[1:]:
            values[name] = resize_positions(value, wanted[1])
        if values[name].shape != wanted:
            problems.append(f"{name}: the model has {wanted}, the file {tuple(value.shape)}")
        elif not value.isfinite().all():
            problems.append(f"{name}: the file has NaN or infinite values")
    if problems:
        raise ConfigError(
            f"{source} does not fit: {problems[0]} ({len(problems)} problems). Use "
            "another checkpoint."
        )
    return values


def encoder_tensors(parameters: Sequence[Parameter]) -> tuple[EncoderTensor, ...]:
    """Names and layouts of an encoder's parameters in timm."""
    return tuple(
        EncoderTensor(
            name=parameter.name,
            timm_name=parameter.name.removeprefix(ENCODER),
            layout=parameter.layout,
        )
        for parameter in parameters
    )


def _refuse_others(
    source: Source,
    checkpoint: Tensors,
    facts: Mapping[str, str],
    model: ModelFacts,
    encoder: Sequence[EncoderTensor],
) -> None:
    """Refuse another kind of model, then other sizes, then other names, then integers."""
    if foreign := list(_foreign(checkpoint)):
        raise ConfigError(
            f"{source} is not a plain ViT: it has {', '.join(foreign)}. Use a checkpoint "
            "of a model in docs/recipe.md, such as timm's vit_small_patch16_224.augreg_in21k."
        )
    if others := _other_sizes(source, checkpoint, facts, model):
        said = ", ".join(f"{other.name} {other.theirs}, not {other.ours}" for other in others)
        flags = " ".join(other.flag for other in others)
        raise ConfigError(f"{source} is of another model: {said}. Export with {flags}.")
    if problems := list(_other_names(checkpoint, encoder)):
        raise ConfigError(
            f"{source} does not have the tensors of timm's {model.name}: "
            f"{'; '.join(problems)}. Use a checkpoint of timm, or convert its names."
        )
    for tensor in encoder:
        if (dtype := checkpoint[tensor.timm_name].dtype) not in FLOATS:
            raise ConfigError(
                f"{source} has integers or quantised numbers: {tensor.timm_name!r} is of "
                f"type {str(dtype).removeprefix('torch.')}. Use the checkpoint in floating "
                "point, of 16, 32 or 64 bits."
            )


def read_tensors(source: Source) -> tuple[Tensors, dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    path = source.path
    try:
        with open_regular(path, MAX_STATE_BYTES) as raw:
            head = raw.read(4)
        with safe_open(path, "pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror or error}.") from error
    except SafetensorError as error:
        if head.startswith(_PICKLES) or path.suffix in _PICKLE_SUFFIXES:
            raise ConfigError(_pickle(source)) from error
        raise ConfigError(f"{source} is not a complete safetensors file: {error}.") from error


def _pickle(source: Source) -> str:
    path = source.path
    return (
        f"{source} is a pickle of PyTorch, which could run any code, and is not read. "
        'Convert it where you trust it; some files hold the weights below "model" or '
        '"state_dict":\n'
        "  import torch, safetensors.torch\n"
        f"  weights = torch.load(open({str(path)!r}, 'rb'), map_location='cpu', "
        "weights_only=True)\n"
        "  safetensors.torch.save_file({k: v.contiguous() for k, v in weights.items()}, "
        f"{path.with_suffix('.safetensors').name!r})"
    )


def _without_prefix(source: Source, tensors: Tensors, names: list[str]) -> Tensors:
    """The tensors with timm's names: those below the one prefix that has them all."""
    if _STATE + KERNEL in tensors:
        raise ConfigError(
            f"{source} is a state of edge-train, with its own names and layouts. Give "
            "the file that `edge-train export-encoder RUN -o encoder.safetensors` writes."
        )
    ends = [name.removesuffix(KERNEL) for name in tensors if name.endswith(KERNEL)]
    prefixes = [prefix for prefix in ends if not prefix or prefix.endswith(".")]
    fitting = [p for p in prefixes if all(p + name in tensors for name in names)] or prefixes
    if len(fitting) > 1 and "" not in fitting:
        raise ConfigError(
            f"{source} holds several encoders: below {', '.join(map(repr, fitting))}. "
            "Save one of them alone."
        )
    prefix = "" if "" in fitting or not fitting else fitting[0]
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _foreign(checkpoint: Tensors) -> Iterator[str]:
    """What the checkpoint has, or lacks, that makes it another kind of model."""
    for pattern, what in FOREIGN.items():
        if found := next((name for name in checkpoint if re.fullmatch(pattern, name)), None):
            yield f"{what} ({found!r})"
    shapes = {name: tuple(value.shape) for name, value in checkpoint.items()}
    if KERNEL not in shapes:
        return  # not a ViT at all: the names say so
    yield from (what for name, what in LACKING.items() if name not in shapes)
    kernel, positions = shapes[KERNEL], shapes.get(POSITIONS, ())
    if len(kernel) == 4 and kernel[1] != 3:
        yield f"{kernel[1]} channels of pixels"
    if len(kernel) == 4 and kernel[2] != kernel[3]:
        yield f"patches of {kernel[3]} x {kernel[2]} px"
    if len(positions) == 3 and positions[1] > 1 and not _is_square(positions[1] - 1):
        yield (
            "position embeddings of patches alone (no_embed_class)"
            if _is_square(positions[1])
            else f"positions of {positions[1] - 1} patches, which are not a square"
        )
    hidden, back = (shapes.get(f"blocks.0.mlp.fc{n}.weight", ()) for n in (1, 2))
    if len(hidden) == len(back) == 2 and hidden[0] == 2 * back[1]:
        yield "SwiGLU (twice as many hidden outputs as inputs)"
    elif len(hidden) == 2 and hidden[1] and hidden[0] != MLP_RATIO * hidden[1]:
        yield f"hidden layers {hidden[0] / hidden[1]:.3g} times as wide as a token"


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


def _other_sizes(
    source: Source, checkpoint: Tensors, facts: Mapping[str, str], model: ModelFacts
) -> list[OtherSize]:
    """Each size that differs.

    Heads and normalisation are not in the weights; files of ours state them.
    """
    blocks = [int(match[1]) for name in checkpoint if (match := _BLOCK.match(name))]
    theirs: dict[str, tuple[object, str]] = {}
    if blocks:
        depth = max(blocks) + 1
        theirs["depth"] = depth, source.flag_for("depth", depth)
    if KERNEL in checkpoint and checkpoint[KERNEL].ndim == 4:
        width, *_, side = checkpoint[KERNEL].shape
        theirs["width"] = width, _width_flags(source, model.name, width)
        theirs["patch_size_px"] = side, source.flag_for("patch_size", side)
    stated = facts if facts.get("producer", "").startswith("edge-train ") else {}
    if "heads" in stated:
        theirs["heads"] = stated["heads"], source.flag_for("heads", stated["heads"])
    for key in ("mean", "std"):
        if key in stated:
            theirs[key] = stated[key], source.flag_for(key, stated[key])
    found = []
    for name, (value, flag) in theirs.items():
        ours = json.dumps(getattr(model, name))
        if str(value) != ours:
            found.append(OtherSize(name.removesuffix("_px"), value, ours, flag))
    return found


def _width_flags(source: Source, name: str, width: int) -> str:
    """Flags for a model of that width: by name, which has its heads; the file does not."""
    kind = name.partition("_")[0]
    families = [
        f for f, sizes in FAMILIES.items() if sizes.width == width and f.startswith(f"{kind}_")
    ]
    if families:
        return source.flag_for("name", families[0])
    return f"{source.flag_for('width', width)} {source.flag_for('heads', 'HEADS')}"


def _other_names(checkpoint: Tensors, encoder: Sequence[EncoderTensor]) -> Iterator[str]:
    names = [tensor.timm_name for tensor in encoder]
    missing = [name for name in names if name not in checkpoint]
    if missing:
        yield f"it lacks {len(missing)} of {len(names)} tensors, first {missing[0]!r}"
    more = checkpoint.keys() - {*names}
    if others := sorted(name for name in more if not name.startswith(CLASSIFIER)):
        yield f"it has {len(others)} other tensors, first {others[0]!r}"
    for tensor in encoder:
        shape = (
            tuple(checkpoint[tensor.timm_name].shape) if tensor.timm_name in checkpoint else ()
        )
        if shape and len(shape) != AXES.get(tensor.layout, len(shape)):
            yield f"{tensor.timm_name!r} has the shape {shape}"


def resize_positions(positions: Tensor, tokens: int) -> Tensor:
    """Position embedding (1, 1 + n^2, D) for another square grid: (1, tokens, D).

    Bicubic with antialiasing, the class token's unchanged, as in timm.
    """
    patches = positions.shape[1] - 1 if positions.ndim == 3 and len(positions) == 1 else 0
    old, new = math.isqrt(patches), math.isqrt(tokens - 1)
    if not patches or old * old != patches:
        return positions  # not a square grid with a class token: the shape check refuses it
    grid = positions[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = interpolate(grid, size=(new, new), mode="bicubic", antialias=True)
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
