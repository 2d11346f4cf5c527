"""Prometheus metrics of a run: read by the official parser, from a real server."""

import re
import socket
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from live_runs import FINISHED, STARTED, Writing, finished_run, sample
from training_fakes import INFO

from edge_runtime.errors import ConfigError
from edge_runtime.facts import Budget
from edge_runtime.live.metrics import metrics_of, serve_metrics
from edge_runtime.live.status import Status
from edge_runtime.records import events
from edge_runtime.records.spending import Spending

pytest.importorskip("prometheus_client", reason="the extra `metrics`")

BUDGET = Budget(memory_bytes=8 << 20, time_s=120.0, power_w=10.0, temperature_c=80.0)
DOCUMENT = (Path(__file__).parents[1] / "docs/watching.md").read_text()


def scrape(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_run_is_scraped_while_it_goes_on(tmp_path) -> None:
    with serve_metrics(tmp_path / "run", 0) as port:
        assert scrape(port) == {}  # there is no run folder yet
        with Writing(tmp_path / "run", budget=BUDGET) as writing:
            writing.event(0.1, STARTED)
            writing.steps(1, 2)
            writing.samples(sample(1.0, 4.0), sample(2.0, 8.0, throttled=True))
            scraped = scrape(port)
            assert scraped["edge_train_step", ()] == 2
            assert scraped["edge_train_final_step", ()] == 10
            assert scraped["edge_train_images_total", ()] == 8
            assert scraped["edge_train_loss", ()] == 1.5
            assert scraped["edge_train_rung_info", (("rung", "k100"),)] == 1
            measured = (("estimate", "false"),)
            assert scraped["edge_train_energy_joules_total", measured] == 16.0
            assert scraped["edge_train_power_watts", measured] == 8.0
            rail = (("estimate", "false"), ("rail", "VDD_IN"))
            assert scraped["edge_train_rail_power_watts", rail] == 8.0
            assert scraped["edge_train_resident_bytes", ()] == 2 << 20
            assert scraped["edge_train_temperature_celsius", ()] == 54.0
            assert scraped["edge_train_throttled", ()] == 1
            assert scraped["edge_train_budget_time_seconds", ()] == 120.0
            writing.steps(3)
            assert scrape(port)["edge_train_step", ()] == 3


def test_what_is_unknown_has_no_sample(tmp_path) -> None:
    Writing(tmp_path / "run", sensor=None, budget=Budget()).__exit__()
    with serve_metrics(tmp_path / "run", 0) as port:
        names = {name for name, _ in scrape(port)}
    assert names == {
        "edge_train_run_info",
        "edge_train_step",
        "edge_train_final_step",
        "edge_train_images_total",
        "edge_train_time_seconds_total",
    }


def test_an_estimate_has_its_label(tmp_path) -> None:
    run = finished_run(tmp_path / "run", power_is_estimate=True, sensor="estimate")
    with serve_metrics(run.path, 0) as port:
        scraped = scrape(port)
    estimated = (("estimate", "true"),)
    assert scraped["edge_train_energy_joules_total", estimated] == 50.0
    assert scraped["edge_train_power_watts", estimated] == 5.0


def test_a_lost_sensor_is_told(tmp_path) -> None:
    with Writing(tmp_path / "run") as writing, serve_metrics(tmp_path / "run", 0) as port:
        assert scrape(port)["edge_train_power_sensor_lost", ()] == 0
        writing.event(1.0, events.SensorLost(step=1, sensor="jtop", reason="gone"))
        assert scrape(port)["edge_train_power_sensor_lost", ()] == 1


def test_damaged_records_end_in_no_metrics_and_a_warning(tmp_path, caplog) -> None:
    run = finished_run(tmp_path / "run")
    with (run.path / "power.jsonl").open("a") as stream:
        stream.write("}\n")
    with serve_metrics(run.path, 0) as port:
        assert scrape(port) == {}
    assert "no metrics: " in caplog.text


def test_a_port_in_use_is_explained(tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = rf"--metrics-port {port}: cannot listen on 127.0.0.1: .*in use"
        with pytest.raises(ConfigError, match=message), serve_metrics(tmp_path, port):
            pass


def test_an_address_of_another_machine_is_explained(tmp_path) -> None:
    message = r"cannot listen on 192.0.2.1: .* Choose another port, or an address of"
    with pytest.raises(ConfigError, match=message), serve_metrics(tmp_path, 0, "192.0.2.1"):
        pass


def test_the_port_is_free_again_afterwards(tmp_path) -> None:
    with serve_metrics(tmp_path, 0) as port:
        pass
    with serve_metrics(tmp_path, port) as again:
        assert again == port


def test_a_missing_library_is_explained(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    message = r"pip install 'PATH\[metrics\]'"
    with pytest.raises(ConfigError, match=message), serve_metrics(tmp_path, 0):
        pass


def test_every_metric_is_documented_and_nothing_else(tmp_path) -> None:
    status = Status(replace(INFO, budget=replace(BUDGET, energy_j=500.0)), Spending())
    with Writing(tmp_path / "run") as writing:
        writing.event(9.0, FINISHED)
    from live_runs import step

    status.add_step(step(1, 1.0))
    status.add_step(step(2, 2.0))
    status.spending.add(1, 2.0, 5.0)
    status.add_sample(sample(2.0, 5.0))
    names = {
        found.name + {"counter": "_total", "info": "_info"}.get(found.type, "")
        for found in metrics_of(status)
    }
    rows = re.findall(r"^\| `(edge_train_\w+)", DOCUMENT, re.MULTILINE)
    assert sorted(rows) == sorted(names)
