"""Every command has a page with all of its arguments, and every example of it is one."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from edge_runtime.cli.main import COMMANDS, parser_for

FOLDER = Path(__file__).parents[1] / "docs/commands"


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of one command."""
    whole = parser_for([command])
    (commands,) = (a for a in whole._actions if isinstance(a, argparse._SubParsersAction))
    parser = commands.choices[command]
    assert isinstance(parser, argparse.ArgumentParser)
    return parser


def arguments_of(command: str) -> set[str]:
    names: set[str] = set()
    for action in parser_of(command)._actions:
        if action.help != argparse.SUPPRESS and "--help" not in action.option_strings:
            names |= set(action.option_strings) or {str(action.metavar)}
    return names


def test_every_command_has_a_page() -> None:
    assert {page.stem for page in FOLDER.glob("*.md")} == set(COMMANDS)
    table = (FOLDER.parent / "commands.md").read_text()
    for command in COMMANDS:
        assert f"[`{command}`](commands/{command}.md)" in table


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_has_all_arguments(command: str) -> None:
    page = (FOLDER / f"{command}.md").read_text()
    rows = re.findall(r"^\| (`.*?`(?:, `.*?`)*) \|", page, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(.*?)`", row)}
    assert listed == arguments_of(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_can_be_parsed(command: str) -> None:
    page = (FOLDER / f"{command}.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    for line in block.splitlines():
        program, *words = shlex.split(re.split(r" [|>] ", line)[0])
        assert (program, words[0]) == ("edge-train", command)
        parser_for(words).parse_args(words)
