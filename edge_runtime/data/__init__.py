"""Pictures to views: sources, decoding, augmentation, batches. Only this part uses OpenCV."""

import os

# Every bad picture is reported by us; OpenCV's own lines would fill the terminal.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

import cv2

from edge_runtime.data.batches import ViewBatch, steps_per_epoch, view_batches
from edge_runtime.data.labelled import labelled_batches
from edge_runtime.data.opening import open_source
from edge_runtime.data.randomness import draw_inputs
from edge_runtime.data.sources import (
    FrameSource,
    PictureSource,
    SourceLostError,
    UnreadablePicture,
)
from edge_runtime.data.unreadable import Skipped

# Worker threads are ours: OpenCV's would fight with them and with onnxruntime's.
cv2.setNumThreads(0)

__all__ = [
    "FrameSource",
    "PictureSource",
    "Skipped",
    "SourceLostError",
    "UnreadablePicture",
    "ViewBatch",
    "draw_inputs",
    "labelled_batches",
    "open_source",
    "steps_per_epoch",
    "view_batches",
]
