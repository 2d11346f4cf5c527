"""What every test may use."""

import os
from pathlib import Path

import pytest


def handed_over_packages() -> list[Path]:
    """Packages that another environment exported for us to train; empty without the variable."""
    folder = os.environ.get("EDGE_TRAIN_TEST_PACKAGES")
    if folder is None:
        return []
    packages = sorted(path.parent for path in Path(folder).glob("*/manifest.json"))
    if not packages:
        raise pytest.UsageError(f"EDGE_TRAIN_TEST_PACKAGES={folder}: no package lies there")
    return packages
