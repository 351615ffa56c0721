from __future__ import annotations

from pathlib import Path
from typing import get_type_hints

import pytest
from click.testing import CliRunner

from shrinkc import recipe_files, registry
from shrinkc.cli import cli
from shrinkc.errors import RecipeError
from shrinkc.recipe import Recipe, resolve


@pytest.mark.parametrize("name", recipe_files.names())
def test_every_recipe_resolves_and_names_its_source(name: str) -> None:
    recipe = recipe_files.resolve(recipe=name)
    assert recipe.compensation in ("none", *registry.names("compensation"))
    registry.built("criteria", recipe.criterion)
    registry.built("allocators", recipe.allocator)
    assert recipe_files.description(name)
    assert "source = " in recipe_files.text(name)


def test_a_recipe_is_its_settings_written_out() -> None:
    spelled = resolve(criterion="bn-gamma", allocator="global", prune_ratio=0.7, round_to=1, compensation="none")
    assert recipe_files.resolve(recipe="slimming-70") == spelled


def test_what_is_given_overrides_the_recipe_and_an_amount_every_amount() -> None:
    recipe = recipe_files.resolve(recipe="slimming-70", macs="40%", criterion="l1", verify=None)
    assert (recipe.prune_ratio, recipe.macs) == (None, "40%")
    assert (recipe.criterion, recipe.allocator, recipe.verify) == ("l1", "global", True)


def test_published_widths_need_no_budget_and_are_rounded_to_nothing() -> None:
    recipe = recipe_files.resolve(recipe="thinet-50", target="jetson")
    assert (recipe.budgets(), recipe.prune_ratio, recipe.round_to) == ([], None, 1)


@pytest.mark.parametrize("setting", [{"macs": "50%"}, {"prune_ratio": 0.5}, {"round_to": 8}, {"min_width": 2}])
def test_published_widths_contradict_budgets_ratios_and_multiples(setting: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="prescribes every width"):
        recipe_files.resolve(recipe="thinet-50", **setting)
    assert recipe_files.resolve(recipe="thinet-50", allocator="uniform", **setting)


@pytest.mark.parametrize(
    ("allocator", "words"),
    [("preset", "needs a parameter"), ("uniform:3", "takes no parameter"), ("preset:ghost", "no preset of that name")],
)
def test_parameters_of_allocators_are_checked(allocator: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        resolve(allocator=allocator)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("criterium = 'l1'", ["own.toml:criterium", "the nearest one is criterion"]),
        ("macs = 50", ["own.toml:macs", "expected a text, found 50"]),
        ("round_to = true", ["expected a whole number, found True"]),
        ("prune_ratio = '0.5'", ["expected a number, found '0.5'"]),
        ("verify = 1", ["expected true or false, found 1"]),
        ("exclude = ['a', 2]", ["expected a list of texts"]),
        ("input_shapes = {x = [1, 'n']}", ["expected a table of lists of whole numbers"]),
        ("macs 50", ["not TOML", "own.toml"]),
    ],
)
def test_mistakes_in_a_file_say_where_and_what_was_expected(text: str, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        recipe_files.resolve(recipe=path)
    for word in words:
        assert word in str(caught.value)


def test_a_file_of_ones_own_may_set_everything(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("macs = '30%'\nexclude = ['a*']\n[input_shapes]\nx = [1, 3, 8, 8]\n")
    assert recipe_files.resolve(recipe=path) == resolve(macs="30%", exclude=["a*"], input_shapes={"x": (1, 3, 8, 8)})


def test_every_field_of_a_recipe_has_a_type_in_files() -> None:
    for name in get_type_hints(Recipe):
        assert str(Recipe.__dataclass_fields__[name].type).removesuffix(" | None") in recipe_files.TYPES


def test_a_name_nearly_right_is_told_the_right_one() -> None:
    with pytest.raises(RecipeError, match="by name: slimming-70"):
        recipe_files.read("sliming-70")


def test_the_command_lists_recipes_and_prints_one() -> None:
    listed = CliRunner().invoke(cli, ["recipes"], catch_exceptions=False).output
    compressing, training = (part.splitlines() for part in listed.split("\nfor training:\n"))
    assert [line.split()[0] for line in compressing] == recipe_files.names()
    assert [line.split()[0] for line in training] == recipe_files.training_names()
    assert CliRunner().invoke(cli, ["recipes", "obs"]).output == recipe_files.text("obs")


def test_a_path_among_the_settings_is_stored_as_text(tmp_path: Path) -> None:
    recipe = recipe_files.resolve(recover="5epochs", recover_with=tmp_path / "mine.toml")
    assert recipe.to_json()["recover_with"] == str(tmp_path / "mine.toml")
