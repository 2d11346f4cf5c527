"""An example of a calibration, for tests."""

from edge_runtime.facts import Calibration, CalibrationStage, RungGradient

COSTS = {"k100": 0.2, "k050": 0.1}


def stage(progress: float, **squares: tuple[float, float]) -> CalibrationStage:
    """A stage at step 100 * progress: squared bias and variance, by rung."""
    return CalibrationStage(
        step=round(100 * progress),
        progress=progress,
        squared_norm=1.0,
        rungs=tuple(
            RungGradient(rung=rung, squared_bias=bias, bias_noise=0.01, variance=variance)
            for rung, (bias, variance) in squares.items()
        ),
    )


def calibration_of(
    *stages: CalibrationStage, costs: dict[str, float] = COSTS, dense: str = "k100", **known
) -> Calibration:
    """A calibration with these stages; further fields by name."""
    facts = {
        "format": 1,
        "created_at": "2030-01-01T00:00:00+00:00",
        "package_digest": "ab" * 32,
        "source": "digits",
        "run": None,
        "batches": 16,
        "batch_size": 4,
        "seed": 0,
        "runtime": "numpy",
        "device": "cpu",
        "cost_unit": "seconds",
    } | known
    return Calibration(dense=dense, costs=costs, stages=stages, **facts)


def rising(**known) -> Calibration:
    """The half rung is better at first and worse at the end: 0.6 to 2.6 of the dense one."""
    return calibration_of(
        stage(0.0, k100=(0.0, 1.0), k050=(0.1, 1.0)),
        stage(1.0, k100=(0.0, 2.0), k050=(4.0, 2.4)),
        **known,
    )
