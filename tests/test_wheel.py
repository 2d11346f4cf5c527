"""The wheel, installed without a checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from handed_over import packages_to_train

from edge_runtime.version import __version__

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    # Without PYTHONPATH, which could replace the wheel by a checkout.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    # Without isolation: hatchling is installed, and no network is needed.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return built / f"edge_train-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel in it."""
    home = tmp_path_factory.mktemp("home")
    venv.create(home / "venv", symlinks=True)
    python = home / "venv/bin/python"
    run(
        sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python,
        "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=home,
    )  # fmt: skip
    # The dependencies are those of this environment. Its own .pth files, that of an editable
    # edge-train among them, are not followed from here.
    (site,) = home.glob("venv/lib/*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def test_the_wheel_holds_what_the_device_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for profile in (ROOT / "profiles").glob("*.toml"):
        assert f"edge_runtime/profiles/{profile.name}" in names
    assert "edge_runtime/py.typed" in names
    assert f"edge_train-{__version__}.dist-info/licenses/LICENSE" in names
    for path in [*ROOT.glob("edge_runtime/**/*"), *ROOT.glob("export/**/*.py")]:
        if path.is_file() and "__pycache__" not in path.parts:
            name = path.relative_to(ROOT).as_posix().removeprefix("export/")
            assert name in names


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {PurePosixPath(name).parts[0] for name in archive.namelist()}
    assert tops == {"edge_runtime", "edge_export", f"edge_train-{__version__}.dist-info"}


def test_the_sdist_holds_tests_documents_and_licence(built: Path) -> None:
    folder = f"edge_train-{__version__}"
    with tarfile.open(built / f"{folder}.tar.gz") as archive:
        names = set(archive.getnames())
    wanted = {"LICENSE", "README.md", "CHANGELOG.md", "Makefile", "pyproject.toml"}
    wanted |= {"tests/test_wheel.py", "docs/package-format.md", "profiles/README.md"}
    assert {f"{folder}/{name}" for name in wanted} <= names


def test_the_command_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    where = "import edge_runtime; print(edge_runtime.__file__)"
    assert str(ROOT) not in run(installed / "python", "-c", where, cwd=tmp_path)
    assert __version__ in run(installed / "edge-train", "--version", cwd=tmp_path)


@pytest.mark.parametrize("package", packages_to_train()[:1], ids=lambda path: path.name)
def test_a_package_trains_from_the_wheel(
    installed: Path, package: Path, tmp_path: Path
) -> None:
    options = ["-o", "run", "--epochs", "1", "--images", "64", "--json"]
    events = run(
        installed / "edge-train", "run", package, "digits", *options, cwd=tmp_path
    ).splitlines()
    assert json.loads(events[-1])["event"] == "finished"


def test_an_engine_runs_a_real_step_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    facts = json.loads(run(installed / "edge-train", "doctor", "--json", cwd=tmp_path))
    assert facts["engines"][0]["did"]["engine"] == "ort"


def test_boards_are_found_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "from edge_runtime.device import known_boards as k; print(*[b.id for b in k()])"
    boards = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert sorted(boards) == sorted(path.stem for path in (ROOT / "profiles").glob("*.toml"))
