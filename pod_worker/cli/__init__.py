"""The command line; commands are imported when they are called.

Therefore help is instant.

Data goes to stdout, messages to stderr. An expected error is one line with its fix and an exit code of the
contract; a traceback is shown only with `--debug`.
"""

from __future__ import annotations

import importlib
import io
import os
import select
import sys
from typing import Any

import click

from pod_worker import __version__
from pod_worker.cli.exit_codes import ExitCode, exit_code_for
from pod_worker.cli.startup import prepare_process
from pod_worker.core.terminal_text import terminal_text

# name -> (module:attribute, its line in `--help`)
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("stack.demo:demo", "Start a local stack and run a real training in it."),
    "demo-research": (
        "stack.demo_research:demo_research",
        "Take one hypothesis to a reviewed paper on a local stack.",
    ),
    "demo-pods": (
        "stack.demo_pods:demo_pods",
        "Rent a pod from a fake RunPod and execute a run in it.",
    ),
    "up": ("stack.up:up", "Start a local stack: MongoDB, S3, control plane, workers."),
    "worker": ("services.worker:worker", "Claim runs and execute them (the daemon on a pod)."),
    "control": ("services.control:control", "Serve ingest, the API and the web page."),
    "run": ("run.commands:run", "Run a command of your own on a pod and follow it."),
    "wait": ("run.commands:wait", "Wait for runs; exit with the code of their command."),
    "runs": ("runs.commands:runs", "Submit, list, show, follow and manage runs."),
    "hypotheses": ("ideas.hypotheses:hypotheses", "Create hypotheses, choose ideas, launch experiments."),
    "ideation": ("ideas.ideation:ideation", "Let a model write ideas about a hypothesis."),
    "pipelines": ("pipelines:pipelines", "List pipelines and their parameters."),
    "queues": ("queues:queues", "Show queues; pause and resume them."),
    "workers": ("queues:workers", "List workers and what they do."),
    "artifacts": ("data.artifacts:artifacts", "List and download the artifacts of runs."),
    "data": ("data.data_sets:data", "Upload data sets once, for every run."),
    "events": ("data.events:events", "Follow events, rebuild views, list rejected events."),
    "pods": ("pods.commands:pods", "Rent, inspect and terminate GPU pods."),
    "fake-runpod": ("services.fake_runpod:fake_runpod", "Serve a free imitation of the RunPod API for tests."),
    "llm": ("services.llm:llm", "Serve recorded answers of language models; record them."),
    "doctor": ("diagnostics.doctor:doctor", "Check this machine and its connections."),
    "config": ("config:config", "Show the settings and the origin of each."),
}


class LazyGroup(click.Group):
    """Lists its commands by name and imports one only when it is called."""

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

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Completion"):
            formatter.write_text(
                'eval "$(_POD_WORKER_COMPLETE=bash_source pod-worker)"   (also zsh_source, fish_source)'
            )

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            if not _is_stdout_closed():
                raise
            # `| head` has read enough. What is still buffered must not fail at the interpreter's end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(ExitCode.OK) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else " See 'pod-worker --help'."
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


def _is_stdout_closed() -> bool:
    """Whether the reader of our output has gone; another broken pipe is an error."""
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)  # errors are reported always
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pod-worker")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug messages.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Queue multi-hour GPU runs, execute them on rented pods, follow them live.

    Start with `pod-worker demo`: it needs no account and no GPU.
    """
    ctx.obj = {"debug": debug}


def main(arguments: list[str] | None = None) -> None:
    """The console script.

    Turns every error into one line and the contract's exit code.
    """
    prepare_process()
    _replace_what_cannot_be_encoded()
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    # `--debug` may stand anywhere: people append it to the line that has just failed.
    words = ["--debug"] * debug + [word for word in words if word != "--debug"]
    try:
        code = cli.main(words, prog_name="pod-worker", standalone_mode=False)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        click.echo(_redact(shown.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except Exception as error:
        sys.exit(_report(error, debug))
    sys.exit(code if isinstance(code, int) else ExitCode.OK)


def _report(error: Exception, debug: bool) -> ExitCode:
    """Print an error that reached the top, without secrets."""
    exit_code, text = exit_code_for(error)
    if debug:
        import traceback

        text = terminal_text("".join(traceback.format_exception(error)))
        click.echo(_redact(text), err=True, nl=False)
    else:
        click.echo(f"error: {_redact(text)}", err=True)
    return exit_code


def _redact(text: str) -> str:
    from pod_worker.config import known_secrets
    from pod_worker.core.credentials.secret import Redactor

    return Redactor(known_secrets())(text)


def _replace_what_cannot_be_encoded() -> None:
    """Show characters that the terminal's encoding lacks as `?`.

    Such encodings are latin-1 and ascii.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
