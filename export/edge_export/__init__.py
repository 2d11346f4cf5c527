"""Writes training packages: the export side of edge-train, with PyTorch."""
