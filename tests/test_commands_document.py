"""docs/commands.md and docs/troubleshooting.md say what the code says."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def source() -> str:
    """The code and the Makefile, with texts that go over several lines in one piece."""
    files = [*(ROOT / "edge_runtime").rglob("*.py"), *(ROOT / "export").rglob("*.py")]
    files.append(ROOT / "Makefile")
    text = "\n".join(file.read_text() for file in files)
    return re.sub(r"[\"']\s*\n\s*f?[\"']", "", text)


def test_every_variable_of_ours_is_listed() -> None:
    named = set(re.findall(r"\bEDGE_TRAIN_[A-Z]+\b", source()))
    assert named
    listed = set(re.findall(r"\bEDGE_TRAIN_[A-Z]+\b", (DOCS / "commands.md").read_text()))
    assert listed == named


def test_every_message_is_one_of_ours() -> None:
    code = source()
    rows = re.findall(r"^\| (.*?) \|", (DOCS / "troubleshooting.md").read_text(), re.M)
    messages = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    assert len(messages) > 40
    unknown = [
        (message, piece)
        for message in messages
        for piece in map(str.strip, message.split("..."))
        if len(piece) > 3 and piece not in code
    ]
    assert unknown == []
