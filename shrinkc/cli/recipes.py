"""``shrinkc recipes``: settings that come with the program."""

from __future__ import annotations

import click


@click.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the recipes of `compress --recipe`, or print the one called NAME."""
    from shrinkc import recipe_files

    if name is not None:
        click.echo(recipe_files.text(name), nl=False)
        return
    width = max(len(known) for known in recipe_files.names())
    for known in recipe_files.names():
        click.echo(f"{known:<{width}}  {recipe_files.description(known)}")
