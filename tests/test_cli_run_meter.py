"""When `edge-train run` begins to measure."""

from edge_runtime import device
from edge_runtime.cli.main import main
from edge_runtime.device import ReplaySensor
from edge_runtime.errors import ConfigError


def test_the_meter_begins_before_libraries_and_pictures_are_loaded(
    monkeypatch, capsys
) -> None:
    """So that their energy is measured; it is assumed for the interpreter's start only."""
    seen = []

    def training_of(args):
        seen.append(meters[0].latest())
        raise ConfigError("enough")

    meters, make = [], device.Meter

    def remember(*arguments, **options):
        meters.append(make(*arguments, **options))
        return meters[-1]

    trace = ReplaySensor([(0.0, {"VDD_IN": 5.0})], total=["VDD_IN"])
    monkeypatch.setattr(device, "open_sensor", lambda board: trace)
    monkeypatch.setattr(device, "Meter", remember)
    monkeypatch.setattr("edge_runtime.cli.run.training_of", training_of)
    assert main(["run", "package", "pictures", "-o", "run"]) == ConfigError.exit_code
    assert "enough" in capsys.readouterr().err
    assert seen[0].total_w == 5.0
    assert meters[0].spent_j() > 0
