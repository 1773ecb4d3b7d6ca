"""The command line: a composition root. Commands are imported when they are called, so that help is instant.

Data goes to stdout, messages to stderr. An expected error is one line with its fix and an exit code of the
contract; a traceback is shown only with `--debug`.
"""

from __future__ import annotations

import importlib
import sys

import click

from pod_worker import __version__
from pod_worker.cli.exit_codes import ExitCode, exit_code_for
from pod_worker.cli.startup import prepare_process

# name -> (module:attribute, what `--help` says about it)
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("stack.demo:demo", "Local stack, a real training and a synthetic run, watched to the end."),
    "demo-pods": (
        "stack.demo_pods:demo_pods",
        "The same through a rented pod: fake RunPod, real worker in the pod.",
    ),
    "up": ("stack.up:up", "The local stack in the foreground: MongoDB, S3, control plane, workers."),
    "worker": ("worker:worker", "The daemon on a pod: claim runs and execute them."),
    "control": ("control:control", "Ingest, API and the page that shows runs."),
    "runs": ("runs.commands:runs", "Submit, list, show, follow and manage runs."),
    "queues": ("queues:queues", "What waits where; pause and resume."),
    "workers": ("queues:workers", "Which workers are there, and what they do."),
    "artifacts": ("artifacts:artifacts", "List and fetch what runs have produced."),
    "events": ("events:events", "Follow, rebuild views from, and see refused events."),
    "pods": ("pods.commands:pods", "Rent, look at and give back GPU pods."),
    "fake-runpod": ("fake_runpod:fake_runpod", "A RunPod that costs nothing, for trials and tests."),
    "doctor": ("doctor:doctor", "What is wrong here, and how to mend it."),
    "config": ("config:config", "The settings and where each came from."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and imports one only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"pod_worker.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else " See 'pod-worker --help'."
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pod-worker")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug messages.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Queue multi-hour GPU runs, execute them on rented pods, follow them live.

    Begin with `pod-worker demo`, which needs no account and no GPU.
    """
    ctx.obj = {"debug": debug}


def main(arguments: list[str] | None = None) -> None:
    """The console script. Turns every expected error into one line and the contract's exit code."""
    prepare_process()
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    # `--debug` is welcome anywhere, as people add it to the line that has just failed.
    words = ["--debug"] * debug + [word for word in words if word != "--debug"]
    try:
        code = cli.main(words, prog_name="pod-worker", standalone_mode=False)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)  # `| head` has seen enough
    except Exception as error:
        if debug:
            raise
        exit_code, text = exit_code_for(error)
        click.echo(f"error: {text}", err=True)
        sys.exit(exit_code)
    sys.exit(code if isinstance(code, int) else ExitCode.OK)
