"""Train, evaluate and measure on the device; no torch, no onnx.

The public names are those of `__all__`; everything else may change.
"""
