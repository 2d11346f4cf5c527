"""Functions of tensors through the lowering and ONNX Runtime, for tests."""

import numpy as np
import onnx
import onnxruntime
import torch

from edge_export.lowering.table import np_dtype
from edge_export.lowering.trace import lower

RELATIVE, ABSOLUTE = 1e-5, 1e-6  # float32 on both sides, sums in another order


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lowered(function, *inputs, free=()):
    """The model of a function of tensors: inputs x0, x1, ..., outputs y0, y1, ..."""

    def named(given):
        result = function(*given.values())
        results = result if isinstance(result, (tuple, list)) else [result]
        return {f"y{i}": value for i, value in enumerate(results)}

    example = {f"x{i}": tensor for i, tensor in enumerate(inputs)}
    model = lower(named, example, name="test", free_batch=free)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, *inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    needed = {value.name for value in session.get_inputs()}  # a graph keeps what it reads
    feeds = {f"x{i}": in_graphs(tensor) for i, tensor in enumerate(inputs)}
    return session.run(None, {name: value for name, value in feeds.items() if name in needed})


def in_graphs(tensor):
    """As numpy, with the dtype that it has in graphs: int32 for int64."""
    return tensor.numpy().astype(np_dtype(tensor.dtype))


def assert_same(actual, wanted, *, relative=RELATIVE, absolute=ABSOLUTE):
    wanted = wanted if isinstance(wanted, (tuple, list)) else [wanted]
    for value, tensor in zip(actual, wanted, strict=True):
        want = in_graphs(tensor)
        assert (value.dtype, value.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(value, want, rtol=relative, atol=absolute)
