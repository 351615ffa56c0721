"""Target profiles: what they inherit, that every figure says where it comes from, and what a wrong file is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from shrinkc import recipe, registry, target
from shrinkc.cli import cli
from shrinkc.errors import PluginError, RecipeError

SERVERS = ["cpu", "cuda", "x86-avx512", "openvino-cpu", "t4", "l4", "a10", "h100"]
ARM = ["android-arm64", "raspberry-pi-4", "raspberry-pi-5", "snapdragon-8-gen-3"]
JETSONS = ["jetson", "jetson-nano", "tx2", "xavier-nx", "orin-nano", "orin-nano-super", "orin-nx", "agx-orin", "thor"]

FIGURE = '{ value = 8, basis = "read", verified = false, source = "a data sheet" }'


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    target.forget()
    yield target.user_folder()
    target.forget()


@pytest.mark.parametrize("name", SERVERS + ARM + JETSONS)
def test_every_device_is_there_and_every_figure_has_a_source(name: str) -> None:
    found = target.load(name)
    for figure in (*found.channel_multiples.values(), *found.figures.values()):
        assert figure.source
        assert figure.basis in target.BASES
        assert not (figure.is_verified and figure.basis in ("memory", "derived"))
    assert found.channel_multiple >= 1


def test_the_nearest_profile_wins_and_the_rest_is_inherited() -> None:
    found = target.load("jetson")
    assert found.name == "jetson-orin-nano"
    assert found.lineage == ("jetson-orin-nano", "jetson-orin", "tensorrt-board", "tensor-cores")
    assert (found.runtime, found.precision, found.channel_multiple) == ("tensorrt", "float16", 8)
    assert target.load("jetson-nano").channel_multiple == 2
    assert any("JetPack 6" in note for note in found.notes)


def test_abstract_profiles_are_no_targets() -> None:
    assert "tensor-cores" not in target.names()
    with pytest.raises(RecipeError, match="no target"):
        target.load("tensor-cores")


def test_a_raspberry_pi_is_not_this_machine_though_its_runtime_is_here() -> None:
    assert target.load("cpu").is_here
    assert target.load("raspberry-pi-4").runtime == target.load("cpu").runtime
    assert not target.load("raspberry-pi-4").is_here


def test_a_file_of_ones_own_inherits_and_sets_the_multiple(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        f'inherits = "orin"\n[channel_multiple]\nfloat16 = {FIGURE.replace("8", "32", 1)}\n'.replace(
            '"orin"', '"jetson-orin-nx"'
        )
    )
    found = target.load(str(path))
    assert (found.channel_multiple, found.number("memory_gb")) == (32, 16)
    assert found.aliases == ()
    assert recipe.resolve(target=str(path)).round_to == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('inherits = "nothing"', "does not exist"),
        ('inherits = "mine"', "does not exist"),
        ('inherits = "cpu"\nspeed = 3', "no such key"),
        ('inherits = "cpu"\n[figures]\nspeed = ' + FIGURE, "no such figure"),
        ('inherits = "cpu"\n[figures]\nmemory_gb = 8', "needs value, basis"),
        ('inherits = "cpu"\n[figures]\nmemory_gb = ' + FIGURE.replace("a data sheet", " "), "where it comes from"),
        ('inherits = "cpu"\n[figures]\nmemory_gb = ' + FIGURE.replace("read", "memory").replace("false", "true"), "remembered"),
        ('inherits = "cpu"\n[channel_multiple]\nfloat32 = ' + FIGURE.replace("8", "0", 1), "at least 1"),
        ('inherits = "cpu"\nprecision = "int4"', "entry for the precision"),
        ('description = "x"', "needs runtime"),
        ("= 3", "not TOML"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        target.from_text("mine", text)


def test_profiles_that_inherit_in_a_circle_are_refused(own_folder: Path) -> None:
    own_folder.mkdir(parents=True)
    (own_folder / "a.toml").write_text('inherits = "b"')
    (own_folder / "b.toml").write_text('inherits = "a"')
    target.forget()
    with pytest.raises(RecipeError, match="itself"):
        target.load("a")


def test_list_and_show_say_what_is_verified() -> None:
    listed = CliRunner().invoke(cli, ["targets", "list"])
    assert "jetson-orin-nano " in listed.output
    assert "also: jetson" in listed.output
    shown = CliRunner().invoke(cli, ["targets", "show", "jetson"])
    assert "jetson stands for jetson-orin-nano" in shown.output
    assert "int8_sparse_tops: 40 TOP/s, 2:4 sparse  [memory, NOT verified] from memory, never checked" in shown.output
    assert '"schema": "shrinkc.target/1"' in CliRunner().invoke(cli, ["targets", "show", "t4", "--json"]).output


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put a package of targets where Python finds installed ones."""

    def put(package: str, **profiles: str) -> None:
        site = tmp_path / "site"
        folder, facts = site / package, site / f"{package}-1.0.dist-info"
        folder.mkdir(parents=True)
        facts.mkdir()
        (folder / "__init__.py").touch()
        for name, text in profiles.items():
            (folder / f"{name}.toml").write_text(text)
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(f"[shrinkc.targets]\n{package} = {package}\n")
        monkeypatch.syspath_prepend(str(site))
        forget()

    def forget() -> None:
        registry._points.cache_clear()
        target.forget()

    yield put
    monkeypatch.undo()
    forget()


EDGE = 'inherits = "raspberry-pi-5"\ndescription = "the box"\naliases = ["edgebox"]\n'


def test_a_package_brings_targets_that_inherit_and_can_be_inherited(
    install: Callable[..., None], own_folder: Path, tmp_path: Path
) -> None:
    install(
        "acme_targets", box=EDGE, base='is_abstract = true\ninherits = "cpu"\n', mini='inherits = "base"\ndescription = "m"\n'
    )
    assert {"box", "mini", "cpu"} <= set(target.names())
    assert "base" not in target.names()
    found = target.load("edgebox")
    assert (found.name, found.description, found.origin) == ("box", "the box", "acme_targets/box.toml")
    assert found.figures == target.load("raspberry-pi-5").figures
    assert target.load("cpu").origin == ""
    assert "acme_targets/box.toml" in CliRunner().invoke(cli, ["targets", "show", "box"]).stdout
    own_folder.mkdir(parents=True)
    (own_folder / "box.toml").write_text(EDGE.replace("the box", "my own"))
    target.forget()
    assert target.load("box").description == "my own", "the user's file takes precedence"


def test_two_packages_with_one_name_are_refused(install: Callable[..., None]) -> None:
    install("acme_clash", cpu=EDGE)
    with pytest.raises(PluginError, match="two packages have a target of one name"):
        target.names()


def test_a_package_without_targets_is_refused(install: Callable[..., None]) -> None:
    install("acme_empty")
    with pytest.raises(PluginError, match="brings no targets"):
        target.names()
