"""`adamas bench KIND`."""

from __future__ import annotations

import difflib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from adamas.bench import KINDS, bench
from adamas.cli.options import Count, Number

OTHERS = {
    "quality": "adamas.cli.bench_quality"
}  # kinds with options of their own, and the module that has the `command`
EPILOG = (
    "Each framework runs in a process of its own; what is not installed is left out and named. Nothing else should run "
    "meanwhile. Tables go to standard output, in Markdown; progress to standard error."
)


class Kinds(click.Group):
    """A group with a command for each kind of measurement."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*KINDS, *OTHERS]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in OTHERS:
            command: click.Command = import_module(OTHERS[name]).command
            return command
        return measured(name) if name in KINDS else None

    def resolve_command(
        self, context: click.Context, words: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(context)
        if words[0] not in known and not words[0].startswith("-"):
            near = difflib.get_close_matches(words[0], known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(known)}"
            context.fail(f"no kind {words[0]!r}: {hint}")
        return super().resolve_command(context, words)


class Words(click.ParamType[tuple[str, ...]]):
    """Words between commas."""

    name = "words"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return tuple(word for word in str(value).split(",") if word) if isinstance(value, str) else tuple(value)


class Interpreter(click.ParamType[tuple[str, str]]):
    """A framework and an interpreter that has it."""

    name = "framework=path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        framework, _, path = str(value).partition("=")
        if not (framework and path):
            self.fail(f"{value!r}: give FRAMEWORK=PATH, as in torch=/opt/torch/bin/python", param, ctx)
        return framework, path


@click.group(
    "bench",
    cls=Kinds,
    epilog=EPILOG,
    no_args_is_help=False,
    invoke_without_command=True,
    short_help="Measure Adamas here, beside its peers and the machine's limit.",
)
@click.pass_context
def command(context: click.Context) -> None:
    """Measure Adamas on this machine, beside every peer that is installed and beside the machine's limit, by turns."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def measured(kind: str) -> click.Command:
    """The command of one kind: a shell over `adamas.bench.bench`."""

    @click.command(kind, short_help=KINDS[kind], help=f"Measure {KINDS[kind]}.", epilog=EPILOG)
    @click.option("--rounds", type=Count(), default=3, show_default=True, help="In each, every row has one turn.")
    @click.option("--budget", type=Number(least=0), default=0.5, show_default=True, help="Seconds of one turn.")
    @click.option("--only", type=Words(), default="", metavar="KEY,...", help="Cases, by their keys in the JSON.")
    @click.option("--peers", type=Words(), default="", metavar="WORD,...", help="Rows, by words in their names.")
    @click.option(
        "--python",
        "pythons",
        type=Interpreter(),
        multiple=True,
        metavar="FRAMEWORK=PATH",
        help="An interpreter of another environment that has the framework.",
    )
    @click.option("--scale", type=Number(above=0), default=1.0, show_default=True, help="At most 1: smaller cases.")
    @click.option(
        "--json", "file", metavar="FILE", type=click.Path(dir_okay=False), help="Write the figures there, too."
    )
    def command(pythons: tuple[tuple[str, str], ...], file: str | None, **settings: Any) -> None:
        report = bench(kind, pythons=dict(pythons), say=lambda text: click.echo(text, err=True), **settings)
        if file is not None:
            Path(file).write_text(json.dumps(report.data, indent=1) + "\n", encoding="utf-8")
        click.echo(report.text(), nl=False)

    return command
