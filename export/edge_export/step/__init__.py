"""A training step as torch functions of named tensors."""
