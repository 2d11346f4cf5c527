"""edge-train eval: accuracy of a run's encoder, compared with the untrained one."""

import argparse
from typing import TYPE_CHECKING

from edge_runtime.cli.output import say_program, show, show_json
from edge_runtime.cli.paths import add_run_arguments, path_text
from edge_runtime.cli.profile import add_encoder_arguments, encoder_device

if TYPE_CHECKING:
    from edge_runtime.evaluation import Accuracies, Scores, TrainedState
    from edge_runtime.facts import EvaluationResults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_run_arguments(parser)
    parser.add_argument(
        "--train",
        metavar="DATA",
        type=path_text,
        required=True,
        help="labelled pictures to fit on: a folder with one sub-folder per class, or digits",
    )
    parser.add_argument(
        "--test",
        metavar="DATA",
        type=path_text,
        required=True,
        help="labelled pictures to score, of the same classes, or digits:test",
    )
    parser.add_argument("--linear", action="store_true", help="also fit a linear probe")
    add_encoder_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Evaluate the newest checkpoint and log the result as an event of the run."""
    from edge_runtime.device import Meter, limit_numpy_threads, load_board, open_sensor

    limit_numpy_threads(args.threads)  # before the next line imports it
    from edge_runtime.data import open_source
    from edge_runtime.evaluation import evaluate, open_trained
    from edge_runtime.records import log_event
    from edge_runtime.records.events import Evaluation
    from edge_runtime.schema import unstructure

    if args.train == args.test:
        say_program("--train and --test are the same pictures: the accuracy says little.")
    trained = open_trained(args.run_folder, args.package)
    sources = open_source(args.train), open_source(args.test)
    device = encoder_device(args, trained.package)
    sensor = open_sensor(load_board(args.board))
    with Meter(sensor) as meter, meter.window("evaluation") as window:
        scores = evaluate(
            trained.package,
            trained.state,
            *sources,
            linear=args.linear,
            device=device,
            forward_engine=args.forward_engine,
            threads=args.threads,
            report=say_program,
        )
    results = results_of(trained, scores, *(source.name for source in sources))
    # Printed first, so that a full or read-only disk does not lose the result.
    if args.json:
        show_json({"step": trained.step, **unstructure(results)})
    else:
        show(render_text(trained, scores))
    spent = window.energy
    log_event(
        args.run_folder,
        Evaluation(
            step=trained.step,
            results=results,
            device=scores.device,
            forward_engine=scores.forward_engine,
            spent_s=spent.duration_s,
            energy_j=spent.gross_j,
            energy_is_estimate=bool(spent.is_estimate),
        ),
    )
    return 0


def results_of(
    trained: "TrainedState", scores: "Scores", train: str, test: str
) -> "EvaluationResults":
    """The scores and what was scored, for `--json` and for the run's events."""
    from edge_runtime.evaluation.knn import NEIGHBOURS, TEMPERATURE
    from edge_runtime.facts import EvaluationResults, KnnResult, Pictures, ProbeResult

    knn, linear = scores.knn._asdict(), scores.linear and scores.linear._asdict()
    return EvaluationResults(
        package=trained.package.digest,
        train=Pictures(source=train, pictures=scores.train_pictures),
        test=Pictures(source=test, pictures=scores.test_pictures),
        classes=scores.classes,
        knn=KnnResult(**knn, neighbours=NEIGHBOURS, temperature=TEMPERATURE),
        linear=ProbeResult(**linear) if linear else None,
    )


def render_text(trained: "TrainedState", scores: "Scores") -> str:
    """The result as text."""
    lines = [
        f"encoder after {trained.step} steps, package {trained.package.digest[:12]}",
        f"{scores.train_pictures} training and {scores.test_pictures} test pictures "
        f"of {scores.classes} classes",
        _line("kNN", scores.knn),
    ]
    if scores.linear:
        lines.append(_line("linear probe", scores.linear))
    return "\n".join(lines)


def _line(name: str, accuracies: "Accuracies") -> str:
    gain_points = 100 * (accuracies.accuracy - accuracies.untrained_accuracy)
    return (
        f"{name + ':':<14}{accuracies.accuracy:7.2%}   "
        f"untrained {accuracies.untrained_accuracy:7.2%}   {gain_points:+.2f} points"
    )
