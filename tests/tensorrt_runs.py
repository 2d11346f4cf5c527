"""Engine `tensorrt` on the smallest encoder, whose features are known."""

import numpy as np
from tiny_encoder import SIZE_PX, features_of, make_state

from edge_runtime.engines import encoder_weights
from edge_runtime.engines.tensorrt import TensorRtForwardEngine


def images_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, SIZE_PX, SIZE_PX, 3), np.uint8)


def opened(package, said=None, **options):
    report = (lambda _: None) if said is None else said.append
    engine = TensorRtForwardEngine(threads=1, report=report, **options)
    weights = encoder_weights(package, make_state(1))
    try:
        engine.open(package, package.manifest.embed, weights)
    except BaseException:
        assert engine._bound is None
        raise
    return engine


def assert_right(engine, package, count=3):
    images = images_of(count)
    expected = features_of(encoder_weights(package, make_state(1)), images)
    np.testing.assert_allclose(engine.run(images), expected, rtol=1e-4, atol=1e-2)
