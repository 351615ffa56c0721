"""Options and parameter types that several commands share."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from shrinkc.log import Progress

Command = TypeVar("Command", bound=Callable[..., Any])


class InputShape(click.ParamType[tuple[str, tuple[int, ...]]]):
    """``x:1x3x224x224``, or Polygraphy's ``x:[1,3,224,224]``."""

    name = "NAME:DIMS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, tuple[int, ...]]:
        """Parse one shape."""
        if isinstance(value, tuple):
            return value
        name, colon, dims = str(value).rpartition(":")
        parts = dims.strip("[]").replace(",", "x").split("x")
        if not colon or not name or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is not a shape; write NAME:1x3x224x224", param, ctx)
        return name, tuple(int(part) for part in parts)


def model_options(command: Command) -> Command:
    """Options about the model and its channels."""
    for option in (
        click.option(
            "--prune",
            metavar="KINDS",
            help="Kinds of channels that may go: conv,mlp,heads,head-dim,stream.  [default: conv,mlp,heads]",
        ),
        click.option(
            "--include",
            multiple=True,
            metavar="PATTERN",
            help="Prune only groups with a node, tensor or group of this name (shell pattern).",
        ),
        click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave these groups whole (shell pattern)."),
        click.option(
            "--input-shapes",
            "input_shapes",
            multiple=True,
            type=InputShape(),
            help="Size of free dimensions, x:1x3x224x224; repeat per input.",
        ),
    ):
        command = option(command)
    return command


def output_options(command: Command) -> Command:
    """Options about what is printed."""
    for option in (
        click.option("--debug", is_flag=True, help="Show the traceback of an error."),
        click.option("-v", "--verbose", is_flag=True, help="Say what is being done and how long it took."),
        click.option("-q", "--quiet", is_flag=True, help="No progress, no table."),
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout."),
    ):
        command = option(command)
    return command


def progress_for(is_quiet: bool, is_verbose: bool) -> Progress:
    """Progress reporter for the chosen loudness."""
    from shrinkc.log import Silent, Terminal

    if is_quiet and is_verbose:
        raise click.UsageError("--quiet and --verbose contradict each other")
    return Silent() if is_quiet else Terminal(is_verbose)


def shapes_of(pairs: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, tuple[int, ...]] | None:
    """Shapes by input name, None if none was given."""
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise click.UsageError("--input-shapes names an input twice")
    return dict(pairs) or None


def aside(settings: dict[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    """Results of the given names in a temporary folder: of several processes only the first one's are kept."""
    folder = Path(tempfile.mkdtemp(prefix="shrinkc-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    moved = {name: str(folder / Path(settings[name]).name) for name in names if name in settings}
    return {"output": str(folder / "model.onnx"), **moved}
