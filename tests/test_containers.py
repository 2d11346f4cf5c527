"""The images' files, and the documents about them, agree with the program and its package.

Building and running images is `make test-containers`.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.cli.main import COMMANDS, parser_for
from edge_runtime.records.beginning import beginning_file
from edge_runtime.version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILES = sorted(DOCKER.glob("Dockerfile.*"))
DOCUMENTS = ("deploy", "jetson", "arm")
HOUR_S = 3600
# What compiles ONNX Runtime, and the client of a service on the board
OTHER_REQUIREMENTS = {
    "cmake==3.30.5",
    "numpy==1.26.4",
    "packaging==24.2",
    "setuptools==75.6.0",
    "wheel==0.45.1",
    "jetson-stats==$JETSON_STATS",
}


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """The instructions of a file with their arguments, each on one line."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    words = [line.partition(" ") for line in joined.splitlines() if line]
    return [(name, argument.strip()) for name, _, argument in words]


def last(dockerfile: Path, name: str) -> str:
    """The arguments of the last instruction of that name."""
    return [argument for each, argument in instructions(dockerfile) if each == name][-1]


def defaults(dockerfile: Path) -> dict[str, str]:
    """The build arguments with a default."""
    given = [argument for name, argument in instructions(dockerfile) if name == "ARG"]
    return {key: value.strip('"') for key, _, value in (each.partition("=") for each in given)}


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.suffix[1:])
def dockerfile(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_an_image_runs_without_root_in_its_volume(dockerfile: Path) -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last(dockerfile, "USER"))
    assert json.loads(last(dockerfile, "VOLUME")) == ["/data"]
    assert last(dockerfile, "WORKDIR") == "/data"
    assert "EDGE_TRAIN_CACHE=/data/cache" in last(dockerfile, "ENV")
    names = [name for name, _ in instructions(dockerfile)]
    assert "ADD" not in names
    assert names.count("FROM") > 1  # what builds stays outside


def test_signals_reach_the_program(dockerfile: Path) -> None:
    assert json.loads(last(dockerfile, "ENTRYPOINT")) == ["tini", "--", "edge-train"]
    words = json.loads(last(dockerfile, "CMD"))
    if words != ["--help"]:
        args = parser_for(words).parse_args(words)
        assert args.resume
        _, _, check = last(dockerfile, "HEALTHCHECK").partition("CMD ")
        assert json.loads(check) == ["healthy", f"/data/{args.output}"]


def test_every_base_has_a_version(dockerfile: Path) -> None:
    given = defaults(dockerfile)
    stages: set[str] = set()
    for name, argument in instructions(dockerfile):
        if name == "FROM":
            base, _, stage = argument.partition(" AS ")
            base = re.sub(r"\$\{(\w+)\}", lambda match: given[match[1]], base)
            assert base in stages or re.search(r":(?!latest)[\w.-]+$", base), base
            stages.add(stage)


def test_an_image_is_of_this_version(dockerfile: Path) -> None:
    assert defaults(dockerfile)["VERSION"] == __version__
    label = last(dockerfile, "LABEL")
    for key in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{key}=" in label
    assert f'licenses="{PROJECT["license"]}"' in label


def test_requirements_are_those_of_the_project(dockerfile: Path) -> None:
    extras = defaults(dockerfile)["EXTRAS"].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    text = " ".join(argument for name, argument in instructions(dockerfile) if name == "RUN")
    assert '".[${EXTRAS}]"' in text
    assert set(re.findall(r"[\w-]+==[\w.$]+", text)) <= OTHER_REQUIREMENTS


def test_the_build_context_has_what_is_copied(dockerfile: Path) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for name, argument in instructions(dockerfile):
        if name == "COPY" and not argument.startswith("--from"):
            for source in argument.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in ignored


def test_compose_continues_runs_and_lets_them_save() -> None:
    text = (DOCKER / "compose.yaml").read_text()
    commands = re.findall(r"^ *command: \[(.*)\]$", text, re.M)
    assert len(commands) == 3
    for command in commands:
        words = command.split(", ")
        assert parser_for(words).parse_args(words).resume
    assert set(re.findall(r"image: \S+:(\S+)", text)) == {__version__}
    files = re.findall(r"dockerfile: ([\w./]+)", text)
    assert files
    assert all((ROOT / file).exists() for file in files)
    for line in ("read_only: true", "restart: on-failure:5", "stop_grace_period: 5m"):
        assert f"  {line}\n" in text


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def is_healthy(run: Path) -> bool:
    done = subprocess.run(["sh", str(DOCKER / "healthy"), run.name], cwd=run.parent)
    assert done.returncode in (0, 1)
    return done.returncode == 0


def written_before(path: Path, age_s: float) -> None:
    path.write_text("")
    now_s = path.stat().st_mtime
    os.utime(path, (now_s - age_s, now_s - age_s))


@pytest.mark.parametrize("file", ["steps.jsonl", "events.jsonl"])
def test_a_run_is_healthy_while_it_gets_on(run: Path, file: str) -> None:
    assert not is_healthy(run)
    written_before(run / file, 60)
    assert is_healthy(run)
    written_before(run / file, HOUR_S)
    assert not is_healthy(run)
    written_before(run / "power.jsonl", 0)  # of a thread of its own, even if training hangs
    assert not is_healthy(run)


def test_a_run_is_healthy_while_its_rungs_are_measured(run: Path) -> None:
    run = run.with_name("a-run-with-a-name-of-more-than-forty-characters")
    written_before(beginning_file(run), 60)
    assert is_healthy(run)


def shell_lines(document: str) -> list[str]:
    """The commands in the code blocks of a document, continued lines joined."""
    text = (ROOT / f"docs/{document}.md").read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    return re.sub(r"\s*\\\n\s*", " ", "\n".join(blocks)).splitlines()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_of_a_document_exist(document: str) -> None:
    names = "|".join(COMMANDS)
    found = []
    for line in shell_lines(document):
        if call := re.search(rf"edge-train(?:-\w+)? (({names}) [^#|>']*)", line):
            words = shlex.split(call[1].replace("%%", "%"))
            found.append(parser_for(words).parse_args(words))
    assert len(found) >= 3


@pytest.mark.parametrize("unit", ["edge-train.service", "edge-train-night.service"])
def test_a_unit_saves_and_does_not_repeat_refusals(unit: str, tmp_path: Path) -> None:
    text = units()[unit]
    for line in ("KillMode=mixed", "KillSignal=SIGTERM", "SuccessExitStatus=130"):
        assert f"\n{line}\n" in text
    if "\nRestart=" in text:
        assert "\nRestart=on-failure\n" in text
        assert "\nRestartPreventExitStatus=2 3 7 8\n" in text


def test_systemd_reads_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    for name, text in units().items():
        # It is not installed where the tests run.
        installed = text.replace("/opt/edge-train/bin/edge-train", "/bin/true")
        (tmp_path / name).write_text(installed)
    for name in units():
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)],
            capture_output=True,
            text=True,
        )
        ours = [line for line in done.stderr.splitlines() if name in line]
        assert (done.returncode, ours) == (0, []), done.stderr


def units() -> dict[str, str]:
    """The units of docs/deploy.md, by their names."""
    text = (ROOT / "docs/deploy.md").read_text()
    found = re.findall(
        r"^`/etc/systemd/system/([\w.-]+)`[^\n]*:\n\n```ini\n(.*?)^```", text, re.M | re.S
    )
    assert len(found) == 3
    return dict(found)
