"""How much memory the use of an encoder needs, and the largest batch that fits. Unit: byte.

Upper bounds from the facts of a package; `tests/test_evaluation_room.py` measures them.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from edge_runtime.device import memory_now, require_room
from edge_runtime.engines import encoder_state_names
from edge_runtime.evaluation.knn import knn_bytes
from edge_runtime.evaluation.linear import probe_bytes
from edge_runtime.evaluation.neighbours import neighbours_bytes
from edge_runtime.package import Package
from edge_runtime.package.names import WEIGHT
from edge_runtime.planning.costs import NODE_BYTES
from edge_runtime.planning.decoding_limit import LEAST_BYTES, limit_beside

BATCH_SIZES = (64, 32, 16, 8, 4, 2, 1)
_FLOAT = 4
# Of the tensors of a block that are live at once, each as large as the output of its largest
# layer: GELU has its input, its own parts and its output.
_LIVE_HIDDEN = 3
_LIVE_SCORES = 2  # of attention: before and after softmax
_LIVE_TOKENS = 6  # queries, keys and values, a copy of them by head
# Pages of the libraries that the first product touches, their buffers, freed memory that the C
# library keeps.
_OTHER_BYTES = 20 << 20
_ARENA = 1.1  # size of the runtime's arena over that of its tensors
_MARGIN = 1.1

READING_ADVICE = "Give the container more memory, or stop other programs."


class Amounts(Protocol):
    """What an encoder is used for."""

    action: ClassVar[str]  # for a message
    advice: ClassVar[str]  # what to do if it does not fit, a sentence

    @property
    def pictures(self) -> int:
        """Whose features are kept."""

    @property
    def decoding_bytes(self) -> int:
        """For the largest of the pictures."""

    @property
    def least_decoding_bytes(self) -> int:
        """The same, if those that need more are skipped."""

    def bytes_after(self, width: int) -> int:
        """What is needed when the graph is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationAmounts:
    """What an evaluation is of."""

    action: ClassVar[str] = "the evaluation of"
    advice: ClassVar[str] = (
        "Give the container more memory, stop other programs, or evaluate on fewer pictures "
        "or on another machine."
    )
    train_pictures: int
    test_pictures: int
    classes: int
    linear: bool
    decoding_bytes: int = 0

    @property
    def pictures(self) -> int:
        """Of both sets."""
        return self.train_pictures + self.test_pictures

    @property
    def least_decoding_bytes(self) -> int:
        """Pictures in files can be skipped."""
        return min(self.decoding_bytes, LEAST_BYTES)

    def bytes_after(self, width: int) -> int:
        """What the classifiers need."""
        if not self.linear:
            return knn_bytes(width)
        return max(knn_bytes(width), probe_bytes(self.train_pictures, width, self.classes))


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingAmounts:
    """What an embedding is of."""

    action: ClassVar[str] = "embedding with"
    advice: ClassVar[str] = (
        "Give the container more memory, stop other programs, or embed fewer pictures "
        "(--images N) or with fewer neighbours (--neighbours K)."
    )
    pictures: int
    neighbours: int
    decoding_bytes: int = 0
    is_video: bool = False

    @property
    def least_decoding_bytes(self) -> int:
        """No frame of a video can be skipped: the decoder needs the memory for each."""
        return self.decoding_bytes if self.is_video else min(self.decoding_bytes, LEAST_BYTES)

    def bytes_after(self, width: int) -> int:
        """What the nearest pictures need."""
        return neighbours_bytes(self.pictures, width, self.neighbours)


def encoder_bytes(package: Package) -> int:
    """Of the state tensors of which the encoder is made."""
    return sum(_tensor_bytes(package))


def reading_bytes(package: Package) -> int:
    """What reading the encoder takes, and then writing one tensor of it in another layout."""
    return encoder_bytes(package) + max(_tensor_bytes(package), default=0)


def _tensor_bytes(package: Package) -> list[int]:
    sizes = {spec.name: spec.size_bytes for spec in package.manifest.state}
    return [sizes[name] for name in encoder_state_names(package)]


def picture_bytes(package: Package) -> int:
    """Tensors of the embedding graph that are live at once, for each picture of a batch."""
    model = package.manifest.model
    weights = package.manifest.graphs[package.manifest.embed].inputs
    hidden = max(
        size or 0
        for w in weights
        if w.role == WEIGHT and len(w.shape) == 2
        for size in w.shape
    )
    tokens = model.tokens * model.width
    pixels = 3 * model.image_size_px**2
    of_block = 2 * tokens + max(
        _LIVE_HIDDEN * model.tokens * hidden,
        _LIVE_TOKENS * tokens + _LIVE_SCORES * model.heads * model.tokens**2,
    )
    return _FLOAT * max(of_block, 3 * pixels + tokens)


def evaluation_bytes(package: Package, amounts: Amounts, batch_size: int) -> int:
    """What an evaluation needs beside decoding, the loaded runtime and the trained encoder.

    Features of all pictures; beside them either two more copies of the encoder, one read and
    one bound; or one copy and a batch in the graph; or what is computed from the features. An
    embedding reads no second encoder, so this is an upper bound for it, too.
    """
    manifest, weights = package.manifest, encoder_bytes(package)
    width = manifest.model.width
    features = _FLOAT * amounts.pictures * (width + 4)  # with numbers and labels, int64
    views = 4 * batch_size * 3 * manifest.model.image_size_px**2
    of_graph = NODE_BYTES * manifest.graphs[manifest.embed].nodes
    batch = round(_ARENA * batch_size * picture_bytes(package)) + views
    in_graph = of_graph + weights + max(weights, batch)
    after = amounts.bytes_after(width)
    return round(_MARGIN * (_OTHER_BYTES + features + max(in_graph, after)))


def decoding_limit(package: Package, amounts: Amounts, batch_size: int) -> int | None:
    """What the evaluation leaves to decoding: a picture that needs more is skipped."""
    now = memory_now()
    needed = now.held_bytes + evaluation_bytes(package, amounts, batch_size)
    return limit_beside(needed, now.room_bytes)


def fitting_batch_size(package: Package, amounts: Amounts) -> int:
    """The largest batch with which an evaluation fits into the memory that is left.

    Where it does not fit with the largest pictures, these will be skipped, if they can be.

    Raises:
        DeviceError: not even one picture fits.
    """
    now = memory_now()
    for decoding_bytes in (amounts.decoding_bytes, amounts.least_decoding_bytes):
        for batch_size in BATCH_SIZES:
            needed = evaluation_bytes(package, amounts, batch_size)
            if now.has_room_for(needed + decoding_bytes):
                return batch_size
    least = evaluation_bytes(package, amounts, BATCH_SIZES[-1]) + amounts.least_decoding_bytes
    require_room(f"{amounts.action} {package.path}", least, amounts.advice)
    return BATCH_SIZES[-1]
