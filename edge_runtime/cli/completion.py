"""Completion of commands, flags and paths in a shell, by the library shtab."""

import argparse
from collections.abc import Sequence
from typing import Any

from edge_runtime.cli.output import show
from edge_runtime.errors import ConfigError, how_to_install

SHELLS = ("bash", "zsh", "tcsh")


class PrintCompletion(argparse.Action):
    """A flag that prints the script of its shell and ends; its parser has every command."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Print it.

        Raises:
            ConfigError: shtab is not installed.
        """
        try:
            import shtab
        except ImportError as error:
            raise ConfigError(
                f"{option_string} needs shtab: {how_to_install('completion')}."
            ) from error
        _complete_paths(parser, shtab.FILE)
        show(shtab.complete(parser, shell=str(values)))
        parser.exit()


def _complete_paths(parser: argparse.ArgumentParser, complete: Any) -> None:
    from edge_runtime.cli.paths import any_path, path_text  # a third of the time of --help

    for action in parser._actions:
        if action.type in (any_path, path_text):
            action.complete = complete  # type: ignore[attr-defined]  # read by shtab
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_paths(command, complete)
