"""Reading a training package."""

from edge_runtime.package.reader import Package, open_package

__all__ = ["Package", "open_package"]
