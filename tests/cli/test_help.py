"""The help of every command: complete sentences, every option explained, nothing cut off."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from pod_worker.cli import COMMANDS, cli
from tests.cli.conftest import Cli

RANGE = re.compile(r"-?\d{6,}")


def walk(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from walk(child, (*words, name))


ALL = {words: command for words, command in walk(cli) if words[:1] != ("pods",)}


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_and_option_is_explained(cli: Cli, words: tuple[str, ...]) -> None:
    command = ALL[words]
    text = (command.help or "").strip()
    assert text
    assert text.partition("\n\n")[0].rstrip().endswith(".")
    unexplained = [each.opts for each in command.params if isinstance(each, click.Option) and not each.help]
    assert not unexplained
    result = cli(*words, "--help")
    assert result.code == 0
    cut = [line for line in result.out.splitlines() if line.endswith("...") and not line.startswith("Usage:")]
    assert not cut, "a command's first sentence is too long"
    assert not RANGE.search(result.out), "a range that says nothing"


def test_the_table_of_commands_is_in_the_help(cli: Cli) -> None:
    out = cli("--help").out
    assert all(name in out and text in out for name, (_, text) in COMMANDS.items())
