"""The words of `pod-worker run`: options, a job file, a command after `--`."""

from __future__ import annotations

import click

COMMAND_KEY = "pod_worker.run.command"  # in the context's meta: the words after `--`, or None


class RunCommand(click.Command):
    """Keeps what follows `--` apart, and lets --sweep take several words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            args, ctx.meta[COMMAND_KEY] = args[:at], tuple(args[at + 1 :])
        return super().parse_args(ctx, with_repeated_sweeps(args))


def with_repeated_sweeps(args: list[str]) -> list[str]:
    """`--sweep a=1,2 b=3,4` as `--sweep a=1,2 --sweep b=3,4`."""
    found: list[str] = []
    is_in_sweep = False
    for index, word in enumerate(args):
        if word == "--sweep":
            is_in_sweep = True
            if index + 1 < len(args) and "=" in args[index + 1]:
                continue
        elif is_in_sweep and "=" in word and not word.startswith("-"):
            found.append("--sweep")
        else:
            is_in_sweep = False
        found.append(word)
    return found
