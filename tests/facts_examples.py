"""An example of each fact in records, for tests."""

import argparse
import shlex

from edge_runtime.cli.budget_flags import add_budget_arguments, budget_of
from edge_runtime.facts import (
    Budget,
    EvaluationResults,
    KnnResult,
    Pictures,
    Plan,
    ProbeResult,
    RungVerdict,
    Segment,
    WindowEnergy,
)

BUDGET = Budget(energy_j=500.0)
PLAN = Plan(
    segments=(Segment(rung="k050", steps=4), Segment(rung="k100", steps=6)),
    steps=10,
    token_blocks=800,
    time_s=12.0,
    wait_s=0.0,
    energy_j=480.0,
    power_w=40.0,
    peak_bytes=None,
    verdicts=(
        RungVerdict(
            rung="k050",
            token_blocks=50,
            step_s=0.5,
            step_j=20.0,
            power_w=40.0,
            peak_bytes=None,
            source="measured",
            steps=4,
            reason="40% of the steps: the most that --energy allows",
        ),
    ),
    binding=("energy",),
)
WINDOW = WindowEnergy(
    name="rung k100",
    start_s=1.0,
    duration_s=4.0,
    gross_j=None,
    idle_j=None,
    net_j=None,
    mean_w=None,
    peak_w=None,
    rails_j={"VDD_IN": None},
    samples=0,
    missed=3,
    largest_gap_s=0.0,
    gap_s=0.0,
    peak_temperature_c=54.0,
    throttled=None,
    is_estimate=None,
)
RESULTS = EvaluationResults(
    package="ab" * 32,
    train=Pictures(source="pictures/train", pictures=80),
    test=Pictures(source="pictures/test", pictures=8),
    classes=10,
    knn=KnnResult(accuracy=0.75, untrained_accuracy=0.5, neighbours=20, temperature=0.07),
    linear=ProbeResult(accuracy=0.8, untrained_accuracy=0.4),
)


def budget_of_flags(flags: str) -> Budget:
    """The budget that a command gets from these flags."""
    parser = argparse.ArgumentParser()
    add_budget_arguments(parser)
    return budget_of(parser.parse_args(shlex.split(flags)))
