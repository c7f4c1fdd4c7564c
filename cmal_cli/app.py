"""The `cmal` command: the Click group, its six commands, and the one place where errors become messages."""

from __future__ import annotations

import importlib
import sys

import click

COMMANDS = {
    "prepare": "cmal_cli.prepare:prepare",
    "extract-regions": "cmal_cli.extract_regions:extract_regions",
    "pretrain": "cmal_cli.pretrain:pretrain",
    "finetune": "cmal_cli.finetune:finetune",
    "eval": "cmal_cli.evaluate:evaluate",
    "probe-anchors": "cmal_cli.probe_anchors:probe_anchors",
}


AGAIN = "run the same command again"
_GOES_ON = "it goes on from its last checkpoint"
AFTER_AN_INTERRUPT = {
    "pretrain": _GOES_ON,
    "finetune": _GOES_ON,
    "extract-regions": "it goes on with the images that are not stored yet",
}


class CmalGroup(click.Group):
    """Loads a command when it is asked for, and turns a CmalError into its three lines and exit status 1."""

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
        """As click does it, with the command that was probably meant."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(name, COMMANDS, n=1)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        from cmal.errors import CmalError, as_user_error
        from cmal.io.signals import Stopped, stop_at_once

        then = "it begins anew"
        try:
            with stop_at_once():
                return super().invoke(ctx)
        except Stopped as error:
            then = AFTER_AN_INTERRUPT.get(ctx.invoked_subcommand or "", then)
            asked = CmalError("stopped before the end", f"the process was asked to stop ({error})", f"{AGAIN}: {then}")
            click.echo(f"Error: {asked}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            then = AFTER_AN_INTERRUPT.get(ctx.invoked_subcommand or "", then)
            click.echo(f"Interrupted. {AGAIN.capitalize()}: {then}.", err=True)
            sys.exit(130)
        except Exception as error:
            if ctx.params.get("debug") or (message := as_user_error(error)) is None:
                raise
            click.echo(f"Error: {message}", err=True)
            sys.exit(1)


EPILOG = """\b
Examples:
  cmal prepare scenes --images 60
  cmal extract-regions --help

\b
Completion of commands and options (bash; zsh_source and fish_source alike):
  eval "$(_CMAL_COMPLETE=bash_source cmal)"
"""


@click.group(
    cls=CmalGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=EPILOG,
)
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
@click.version_option(package_name="cmal")
def main(debug: bool) -> None:
    """Vision-language pre-training by cross-modal associative learning.

    The commands stand in their usual order.
    """


def command_line() -> None:
    """The `cmal` program. What goes on after an interrupt may run for days: it wants memory that does not crumble."""
    if AFTER_AN_INTERRUPT.keys() & sys.argv[1:3] and not {"-h", "--help"}.intersection(sys.argv):
        from cmal.training.memory import start_without_thread_cache

        start_without_thread_cache()
    main()
