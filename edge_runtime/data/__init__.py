"""Pictures to views: sources, decoding, augmentation, batches.

Only this part uses OpenCV and Pillow.
"""

import os

from edge_runtime.data.opencv_limits import limits_of

# We report every unreadable picture; OpenCV's own messages would fill the terminal.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
# A second check, for headers that OpenCV understands differently.
os.environ.update(limits_of(os.environ))

import cv2

from edge_runtime.data.batches import Lookahead, ViewBatch, steps_per_epoch, view_batches
from edge_runtime.data.centred import (
    LabelledSource,
    centred_batches,
    expected_count,
    picture_count,
    picture_name,
    require_labels,
)
from edge_runtime.data.decoding_memory import (
    centred_decoding_bytes,
    decoder_code_bytes,
    decoding_bytes,
)
from edge_runtime.data.draws import draw_inputs
from edge_runtime.data.files import left_out_of
from edge_runtime.data.opening import open_source
from edge_runtime.data.sources import (
    FrameSource,
    PictureSource,
    SourceLostError,
    UnreadablePicture,
)
from edge_runtime.data.unreadable import Skipped

# OpenCV's threads would compete with our workers and with onnxruntime's threads.
cv2.setNumThreads(0)

__all__ = [
    "FrameSource",
    "LabelledSource",
    "Lookahead",
    "PictureSource",
    "Skipped",
    "SourceLostError",
    "UnreadablePicture",
    "ViewBatch",
    "centred_batches",
    "centred_decoding_bytes",
    "decoder_code_bytes",
    "decoding_bytes",
    "draw_inputs",
    "expected_count",
    "left_out_of",
    "open_source",
    "picture_count",
    "picture_name",
    "require_labels",
    "steps_per_epoch",
    "view_batches",
]
