"""The `cmal` command: a Click group of six commands, and the one place that turns errors into messages."""

from __future__ import annotations

import importlib
import sys

import click

from cmal import __version__

COMMANDS = {
    "prepare": "cmal_cli.prepare:prepare",
    "extract-regions": "cmal_cli.extract_regions:extract_regions",
    "pretrain": "cmal_cli.pretrain:pretrain",
    "finetune": "cmal_cli.finetune:finetune",
    "eval": "cmal_cli.evaluate:evaluate",
    "probe-anchors": "cmal_cli.probe_anchors:probe_anchors",
}

AGAIN = "run the same command again"
_RESUMES = "it resumes from its last checkpoint"
AFTER_AN_INTERRUPT = {
    "pretrain": _RESUMES,
    "finetune": _RESUMES,
    "extract-regions": "it continues with the images that are not stored yet",
}


class CmalGroup(click.Group):
    """Imports a command when it is used, and turns a CmalError into its three lines and exit status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name].split(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolves a command name; the error for an unknown name suggests the closest one."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(name, COMMANDS, n=1)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        from cmal.errors import CmalError, as_user_error
        from cmal.io.signals import Stopped, stop_at_once

        try:
            with stop_at_once():
                return super().invoke(ctx)
        except Stopped as error:
            found = f"the process received a stop signal ({error})"
            click.echo(f"Error: {CmalError('stopped before the end', found, f'{AGAIN}: {_then(ctx)}')}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo(f"Interrupted. {AGAIN.capitalize()}: {_then(ctx)}.", err=True)
            sys.exit(130)
        except Exception as error:
            if ctx.params.get("debug") or (message := as_user_error(error)) is None:
                raise
            click.echo(f"Error: {message}", err=True)
            sys.exit(1)


def _then(ctx: click.Context) -> str:
    return AFTER_AN_INTERRUPT.get(ctx.invoked_subcommand or "", "it starts over")


EPILOG = """\b
Examples:
  cmal prepare scenes --images 60
  cmal extract-regions --help

\b
Completion of commands and options (bash; or zsh_source, fish_source):
  eval "$(_CMAL_COMPLETE=bash_source cmal)"
"""


@click.group(
    cls=CmalGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EPILOG,
)
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
@click.version_option(__version__, prog_name="cmal")
def main(debug: bool) -> None:
    """Vision-language pre-training by cross-modal associative learning.

    The commands are listed in the order in which they are used.
    """


def command_line() -> None:
    """Entry point of the `cmal` program."""
    main()
