"""``shrinkc recipes``: settings that come with the program."""

from __future__ import annotations

import click


@click.command()
@click.argument("name", required=False)
def recipes(name: str | None) -> None:
    """List the recipes of `compress --recipe` and `train --recipe`, or print the one called NAME."""
    from shrinkc import recipe_files

    if name is not None:
        is_training = name in recipe_files.training_names()
        click.echo(recipe_files.training_text(name) if is_training else recipe_files.text(name), nl=False)
        return
    width = max(len(known) for known in recipe_files.names())
    for known in recipe_files.names():
        click.echo(f"{known:<{width}}  {recipe_files.description(known)}")
    click.echo("\nfor training:")
    width = max(len(known) for known in recipe_files.training_names())
    for known in recipe_files.training_names():
        click.echo(f"{known:<{width}}  {recipe_files.parsed_training(known).get('description', '')}")
