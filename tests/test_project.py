"""The project's files agree with the code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_newest_version_of_the_changelog_is_ours() -> None:
    versions = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == __version__


def test_the_lowest_versions_are_those_that_are_tested() -> None:
    extras = PROJECT["optional-dependencies"]
    tested_extras = ("ort", "completion", "metrics", "report")
    allowed = [*PROJECT["dependencies"], *(x for name in tested_extras for x in extras[name])]
    floors = {
        match.expand(r"\1==\2") if (match := re.match(r"([\w-]+)>=([\d.]+)", line)) else line
        for line in allowed
    }
    tested = (ROOT / "tests" / "lowest-versions.txt").read_text().splitlines()
    assert floors == {line for line in tested if not line.startswith("#")}


DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/**/*.md", "profiles/*.md", "device_tests/**/*.md")
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_link_of_a_document_resolves(document: Path) -> None:
    text = without_code((ROOT / document).read_text())
    links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text)
    for link in (markdown or html for markdown, html in links):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_the_readme_links_every_document() -> None:
    readme = (ROOT / "README.md").read_text()
    for document in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{document.name}" in readme, document.name


def without_code(text: str) -> str:
    """A Markdown text without its code blocks and code spans."""
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    titles = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M
    )
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    ("python", "extras"), [("3.10", "ort"), ("3.11", "export,ort"), ("3.13", "ort")]
)
def test_make_installs_what_the_python_can_use(
    tmp_path: Path, python: str, extras: str
) -> None:
    plan = make_plan(tmp_path, python)
    assert f"edge-train[{extras}" in plan
    assert ("torch==" in plan) == ("export" in extras)


def test_make_names_the_supported_pythons(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        make_plan(tmp_path, "3.9")
    assert "needs Python 3.10 to 3.13" in caught.value.stderr


def make_plan(folder: Path, version: str) -> str:
    """What `make test` would run with a Python of that version."""
    fake = folder / "python"
    fake.write_text(f"#!/bin/sh\necho {version}\n")
    fake.chmod(0o755)
    # An outer make would pass its variables on.
    env = {
        k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "EXTRAS")
    }
    command = ["make", "-n", "test", f"PYTHON={fake}", f"VENV={folder / 'venv'}"]
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    return done.stdout
