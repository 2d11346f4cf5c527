"""`digits` and `digits:test`: 1,797 handwritten digits inside the package.

Origin: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998, UCI
Machine Learning Repository, https://doi.org/10.24432/C50P49, licence CC BY 4.0. digits.npz
is its test part as scikit-learn ships it (`load_digits`), unchanged; digits.txt says so, too.

Split: the first 1,415 pictures train, the last 382 test. Every writer filled in the same form
and the form starts again at picture 1,415, so the writers of the test are new. A test of every
fifth picture would be easier and mean less.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from edge_runtime.data.sources import Image

SIZE_PX = 16
TRAINING_PICTURES = 1415
_GREY_PER_DOT = 255 / 16  # a dot of the data set is the number of inked pixels, 0 to 16


class Digits:
    """A `PictureSource` of white digits on black, (16, 16, 3).

    The 8 x 8 counts are scaled to 0..255 and doubled in size with smooth edges: models of 16
    px need no resizing, and crops keep some detail at 16 or 32 px.
    """

    def __init__(self, part: Literal["train", "test"]) -> None:
        self.name = "digits" if part == "train" else "digits:test"
        self.classes: Sequence[str] = [str(digit) for digit in range(10)]
        rows = slice(TRAINING_PICTURES) if part == "train" else slice(TRAINING_PICTURES, None)
        with np.load(Path(__file__).with_name("digits.npz")) as arrays:
            self._dots = arrays["dots"][rows]  # (n, 8, 8) uint8, 0..16
            self.labels = arrays["labels"][rows].astype(np.int64)

    def __len__(self) -> int:
        return len(self._dots)

    def key(self, index: int) -> str:
        """Number of the picture in this part."""
        return f"{self.name} {index}"

    def read(self, index: int) -> Image:
        """The picture, enlarged."""
        grey = cv2.convertScaleAbs(self._dots[index], alpha=_GREY_PER_DOT)
        large = cv2.resize(grey, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_CUBIC)
        return np.asarray(cv2.cvtColor(large, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
