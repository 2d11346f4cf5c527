"""Torch functions as ONNX graphs."""
