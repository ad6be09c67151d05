"""The verbs, found by name and loaded when used; and every way to fail as one line and an exit status."""

from __future__ import annotations

import _thread
import difflib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import click

import adamas
from adamas.errors import AdamasError

VERBS = ("train", "evaluate", "predict", "explain", "bench", "doctor")  # in the order of use


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
            if words[0] == "compare":  # named in every report of a comparison
                hint = "not in this version; use train DATA --against OPTIMIZER with several --seed"
            context.fail(f"no verb {words[0]!r}: {hint}")
        return super().resolve_command(context, words)


def _cite(context: click.Context, option: click.Parameter, settings: str | None) -> None:
    if settings is not None and not context.resilient_parsing:
        from adamas.citation import described

        click.echo(described(settings))
        context.exit()


@click.group(cls=Verbs, no_args_is_help=False, invoke_without_command=True)
@click.version_option(adamas.__version__, prog_name="adamas")
@click.option(
    "--cite",
    metavar="[SETTING=VALUE,...]",
    is_flag=False,
    flag_value="",
    is_eager=True,
    expose_value=False,
    callback=_cite,
    help="Print a methods paragraph and exit; settings are optimizer, moments and weights, as in "
    "optimizer=AdamW,moments=int8,weights=bfloat16-split.",
)
@click.pass_context
def verbs(context: click.Context) -> None:
    """Adam for deep learning: train, compare, evaluate, predict.

    Begin with: adamas train digits --against sgd
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Runs the command; its exit status. Nothing that a user can cause ends in a traceback."""
    _open_streams()
    with _signals():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
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
        _discard_output()  # whoever read it has left (`| head`): there is nobody to tell
        return 1
    except OSError as error:
        _discard_output()
        place = error.filename or "the output"
        return _say(f"cannot read or write {place}: {error.strerror or _one_line(str(error))}", 1)


def _open_streams() -> None:
    """Puts /dev/null where a stream was closed (`>&-`), or the next file opened would become standard output."""
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))


def _discard_output() -> None:
    """Sends what is still to be written to /dev/null: Python would complain about it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _signals() -> Iterator[None]:
    """Lets SIGTERM end a job as Ctrl-C does, and neither of them be lost.

    An exception that is raised while Python runs a destructor or a callback of the garbage collector goes no further
    than `sys.unraisablehook`. A signal that ended there is sent again a moment later.
    """
    terminate, hook = signal.signal(signal.SIGTERM, _terminate), sys.unraisablehook

    def unraisable(lost: sys.UnraisableHookArgs) -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt):
            number = signal.SIGTERM if isinstance(lost.exc_value, Terminated) else signal.SIGINT
            threading.Timer(0.05, _send, (number,)).start()
        else:
            hook(lost)

    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, terminate)


def _send(number: signal.Signals) -> None:
    """Sends a signal to the main thread, which also ends a wait of it where the system can do that."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        _thread.interrupt_main(number)


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
