"""The version of edge-train, in one place."""

__version__ = "0.1.0"
