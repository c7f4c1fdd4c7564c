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


class CmalGroup(click.Group):
    """Loads a command when it is asked for, and turns a CmalError into its three lines and exit status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name].split(":")
        return getattr(importlib.import_module(module), attribute)

    def invoke(self, ctx: click.Context) -> object:
        from cmal.errors import CmalError

        try:
            return super().invoke(ctx)
        except CmalError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("Interrupted; run the same command again to go on.", err=True)
            sys.exit(130)


EPILOG = """\b
Examples:
  cmal prepare scenes --images 60
  cmal extract-regions --help

Completion of commands and options, in bash (zsh and fish alike): eval "$(_CMAL_COMPLETE=bash_source cmal)"
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

    The usual order: prepare, extract-regions, pretrain, finetune, eval, probe-anchors.
    """
