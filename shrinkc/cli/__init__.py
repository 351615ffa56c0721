"""The command line: argument handling and printing, nothing else."""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from types import FrameType

import click

from shrinkc import __version__
from shrinkc.cli.bench import bench
from shrinkc.cli.check import check
from shrinkc.cli.compress import compress
from shrinkc.cli.doctor import doctor
from shrinkc.cli.inspect import inspect
from shrinkc.cli.profile import profile
from shrinkc.cli.quantize import quantize
from shrinkc.cli.recipes import recipes
from shrinkc.cli.targets import targets
from shrinkc.cli.train import train
from shrinkc.cli.validate import validate
from shrinkc.errors import ShrinkcError

UNUSABLE_FILE, INTERNAL_ERROR, INTERRUPTED = 2, 70, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="shrinkc")
def cli() -> None:
    """Make trained ONNX models smaller and faster, with the proof beside them."""


cli.add_command(bench)
cli.add_command(check)
cli.add_command(compress)
cli.add_command(doctor)
cli.add_command(inspect)
cli.add_command(profile)
cli.add_command(quantize)
cli.add_command(recipes)
cli.add_command(targets)
cli.add_command(train)
cli.add_command(validate)


def _keep_lines(command: click.Command) -> None:
    r"""Put the character that click keeps lines by where docstrings, which are raw, say ``\b``."""
    command.help = command.help.replace("\\b", "\b") if command.help else command.help
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        _keep_lines(inner)


_keep_lines(cli)


def main() -> None:
    """Run the command line and exit with the code that fits what happened."""
    signal.signal(signal.SIGTERM, _interrupt)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # what it warns of comes back as an error of ours
    sys.exit(_run())


def _run() -> int:
    is_debug = "--debug" in sys.argv[1:]
    try:
        cli.main(prog_name="shrinkc", standalone_mode=False)
    except ShrinkcError as error:
        if is_debug:
            traceback.print_exc()
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "shrinkc"
        click.echo(f"error: {error.format_message()}\n  try: {command} --help", err=True)
        return error.exit_code
    except OSError as error:
        if is_debug:
            traceback.print_exc()
        click.echo(f"error: a file cannot be read or written\n  at: {error.filename}\n  because: {error.strerror}", err=True)
        return UNUSABLE_FILE
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; no file is half-written", err=True)
        return INTERRUPTED
    except Exception as error:
        if is_debug:
            traceback.print_exc()
        click.echo(f"error: internal error: {type(error).__name__}: {error}\n  try: --debug, and report it", err=True)
        return INTERNAL_ERROR
    return 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
