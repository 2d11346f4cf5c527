"""Limits on pictures that OpenCV reads from the environment when it is imported.

It ends the process where it cannot read one of them. Pictures have a width and a height in
pixels.
"""

import re
from collections.abc import Mapping

from edge_runtime.data.header import MAX_PIXELS
from edge_runtime.errors import ConfigError

_PIXELS = "OPENCV_IO_MAX_IMAGE_PIXELS"
_LIMITS = ("OPENCV_IO_MAX_IMAGE_WIDTH", "OPENCV_IO_MAX_IMAGE_HEIGHT", _PIXELS)
_NUMBER = re.compile(r"[0-9]{1,12}(MB|Mb|mb|KB|Kb|kb)?")  # what OpenCV understands


def limits_of(variables: Mapping[str, str]) -> dict[str, str]:
    """The limits in the environment, with one on pixels where it has none.

    Raises:
        ConfigError: OpenCV cannot read a limit.
    """
    limits = {_PIXELS: str(MAX_PIXELS)}
    limits.update((name, variables[name]) for name in _LIMITS if name in variables)
    for name, value in limits.items():
        if not _NUMBER.fullmatch(value):
            raise ConfigError(
                f"{name} is {value!r}; OpenCV reads a whole number there, such as "
                f"{MAX_PIXELS}. Correct it, or unset it."
            )
    return limits
