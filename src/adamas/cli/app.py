"""The verbs, found by name and loaded when used; and every way to fail as one line and an exit status."""

from __future__ import annotations

import difflib
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import click

import adamas
from adamas.errors import AdamasError

VERBS = ("train", "evaluate", "predict", "doctor")  # in the order of use


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM on its way past click, which would print an empty line for it."""


class Verbs(click.Group):
    """A group whose verbs are modules of this package, each with a `command`."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = import_module(f"adamas.cli.{name}").command
        return command

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt as error:
            raise Interrupted from error

    def resolve_command(
        self, context: click.Context, words: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if words and words[0] not in VERBS and not words[0].startswith("-"):
            near = difflib.get_close_matches(words[0], VERBS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"the verbs are {', '.join(VERBS)}"
            context.fail(f"no verb {words[0]!r}: {hint}")
        return super().resolve_command(context, words)


@click.group(cls=Verbs, no_args_is_help=False, invoke_without_command=True)
@click.version_option(adamas.__version__, prog_name="adamas")
@click.pass_context
def verbs(context: click.Context) -> None:
    """Adam for deep learning: train, compare, evaluate, predict.

    Begin with: adamas train digits --against sgd
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Runs the command; its exit status. Nothing that a user can cause ends in a traceback."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        result = verbs.main(args=list(arguments), prog_name="adamas", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "adamas"
        return _say(f"{_one_line(error.format_message()).rstrip('.')} (see {path} --help)", 2)
    except click.ClickException as error:
        return _say(_one_line(error.format_message()), 1)
    except AdamasError as error:
        return _say(_one_line(str(error)), 1)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("adamas"):
            raise
        return _say(f"this needs {error.name}, which is not installed: pip install 'adamas[train]'", 1)
    except (Interrupted, KeyboardInterrupt) as error:
        cause = error.__cause__ or error
        notes = getattr(cause, "__notes__", [])
        terminated = isinstance(cause, Terminated)
        message = "; ".join(["terminated" if terminated else "interrupted", *notes])
        if sys.stderr.isatty():
            print(file=sys.stderr)  # the terminal has just shown ^C
        print(f"adamas: {message}", file=sys.stderr)
        return 143 if terminated else 130
    except BrokenPipeError:
        # Whoever read our output has left (`| head`): there is nobody to tell. Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)


def _say(message: str, status: int) -> int:
    print(f"adamas: error: {message}", file=sys.stderr)
    return status


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def next_steps(*commands: str) -> None:
    """Prints the commands that are useful now."""
    click.echo("\nNext:")
    for command in commands:
        click.echo(f"  {command}")


def quoted(*words: Any) -> str:
    """Words as a shell reads them."""
    import shlex

    return shlex.join([str(w) for w in words])
