"""Names of devices on which an engine computes."""

CPU = "cpu"  # always there
WEBGPU, CUDA = "webgpu", "cuda"
AUTO = "auto"  # the device on which a step takes the least time
