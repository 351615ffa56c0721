"""``shrinkc bench``: rows equal single runs, what they share is worked out once, and the chart shows what the JSON says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from models.topologies import TOPOLOGIES

import shrinkc
from shrinkc import deciding, planning, sweeping
from shrinkc.cli import cli
from shrinkc.errors import RecipeError
from shrinkc.latency import probe
from shrinkc.report import chart
from shrinkc.sweeping import bench

Save = Callable[..., Path]

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def net(saved: Save, tmp_path: Path) -> Path:
    """A net, labelled samples to fit to and samples to judge by."""
    path = saved(TOPOLOGIES["chain"]())
    model = onnx.load(str(path))
    (value,) = model.graph.input
    shape = [size.dim_value for size in value.type.tensor_type.shape.dim][1:]
    for file, seed in (("data", 0), ("eval", 1)):
        generator = np.random.default_rng(seed)
        np.savez(tmp_path / f"{file}.npz", **{value.name: generator.standard_normal((40, *shape)).astype(np.float32)})
    return path


def counting(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[str]:
    """Calls of a function, which still does its work."""
    calls, real = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *arguments: calls.append(name) or real(*arguments))
    return calls


def test_models_are_those_of_single_runs_and_evidence_is_gathered_once(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = counting(monkeypatch, deciding, "evidence_from")
    scored = counting(monkeypatch, planning, "scored_by")
    common = {
        "data": net.with_name("data.npz"),
        "eval_data": net.with_name("eval.npz"),
        "measure_latency": False,
        "round_to": 1,
    }
    found = bench(net, output=net.with_name("out"), macs=["70%", "40%"], criteria=["obs", "l2"], has_baseline=True, **common)
    assert [(row.method, row.budget) for row in found.rows] == [
        (method, budget) for method in ("default, obs", "default, l2", "random") for budget in ("70%", "40%")
    ]
    assert len(gathered) == 1
    assert len(scored) == 3
    for row in found.rows:
        own = {"obs": {}, "l2": {"criterion": "l2"}}.get(
            row.method[-3:].strip(", "), {"criterion": "random", "allocator": "uniform"}
        )
        alone = net.with_name("alone.onnx")
        report = shrinkc.compress(net, output=alone, recipe="default", macs=row.budget, **own, **common)
        assert alone.read_bytes() == Path(row.output).read_bytes(), row.method
        assert report.quality == row.quality
        assert report.after == row.cost


def test_a_budget_out_of_reach_is_a_row_with_its_reason(net: Path) -> None:
    found = bench(
        net, output=net.with_name("out"), params=["60%", "0.001%"], recipes=["magnitude"], measure_latency=False, round_to=1
    )
    good, bad = found.rows
    assert good.cost is not None
    assert good.cost.parameters <= 0.6 * found.before.parameters  # type: ignore[union-attr]
    assert bad.cost is None
    assert bad.error
    assert bad.error in net.with_name("out").joinpath("bench.md").read_text()
    assert not net.with_name("out").joinpath("bench.svg").exists()


def test_the_folder_holds_the_figures_as_data_as_a_table_and_as_a_chart(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WARMUP_S", "BLOCK_S"):
        monkeypatch.setattr(probe, name, 0.005)
    folder = net.with_name("out")
    flags = [
        "--recipe",
        "magnitude",
        "--eval-data",
        str(net.with_name("eval.npz")),
        "--round-to",
        "1",
        "--random",
        "-q",
        "--json",
    ]
    result = CliRunner().invoke(cli, ["bench", str(net), "-o", str(folder), "--macs", "70%,40%", *flags])
    assert result.exception is None, result.stderr
    found = json.loads(result.stdout)
    assert found == json.loads((folder / "bench.json").read_text())
    assert (found["schema"], found["metric"], found["baseline"]) == ("shrinkc.bench/1", "agreement", "random")
    for row in found["rows"]:
        assert row["latency_share"] == pytest.approx(1 / row["fair_speedup"])
        assert isinstance(row["is_contended"], bool)
        assert Path(row["output"]).is_file()
    table = (folder / "bench.md").read_text()
    assert table.count("\n| magnitude |") == table.count("\n| random |") == 2
    assert "bench.svg" in table
    titles = [element.text for element in ElementTree.parse(folder / "bench.svg").iter(f"{SVG}title")]
    shown = [
        f"{row['method']}: agreement {row['score']:.2%} at {row['cost']['macs'] / found['before']['macs']:.1%}"
        for row in found["rows"]
    ]
    assert set(shown) <= set(titles)
    assert len(titles) == 2 * len(shown)


def test_an_interrupted_sweep_keeps_the_rows_it_has(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, runs = sweeping.compress, []

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        runs.append(settings)
        if len(runs) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **settings)

    monkeypatch.setattr(sweeping, "compress", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench(net, output=net.with_name("out"), macs=["70%", "40%"], recipes=["magnitude"], measure_latency=False, round_to=1)
    assert [row["budget"] for row in json.loads((net.with_name("out") / "bench.json").read_text())["rows"]] == ["70%"]


def test_recipes_of_one_name_are_refused(net: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.toml").write_text('criterion = "l1"\n')
    with pytest.raises(RecipeError, match="have one name"):
        bench(net, macs="50%", recipes=[str(tmp_path / "a/own.toml"), str(tmp_path / "b/own.toml")])


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--macs", "50%", "--size", "50%"],
        ["--speedup", "fast"],
        ["--macs", "50%", "--recipe", "no-such-recipe"],
        ["--macs", "50%", "--samples", "3"],
        ["--macs", "50%", "--no-latency", "--threads", "2"],
        ["--speedup", "2", "--no-latency"],
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_and_writes_nothing(net: Path, flags: list[str]) -> None:
    before = sorted(net.parent.iterdir())
    result = CliRunner().invoke(cli, ["bench", str(net), "-o", str(net.with_name("out")), *flags])
    assert isinstance(result.exception, RecipeError) or result.exit_code == 2
    assert sorted(net.parent.iterdir()) == before


def test_points_lie_where_the_axes_say() -> None:
    """Positions are linear in the figures, between ticks that stand where their labels say."""
    points = (chart.Point(0.25, 0.5), chart.Point(0.75, 0.9, is_hollow=True))
    panel = chart.Panel("t", "x", "y", (chart.Series("a <b>", points), chart.Series("r", points, True)), chart.Point(1.0, 1.0))
    root = ElementTree.fromstring(chart.svg([panel]))
    labels = {(text.get("text-anchor"), text.text): text for text in root.iter(f"{SVG}text")}
    x_of = {
        one.text: float(str(one.get("x"))) for (anchor, _), one in labels.items() if anchor == "middle" and "%" in str(one.text)
    }
    y_of = {one.text: float(str(one.get("y"))) - 4 for (anchor, _), one in labels.items() if anchor == "end"}
    dots = [dot for dot in root.iter(f"{SVG}circle") if dot.find(f"{SVG}title") is not None]
    assert len(dots) == 4
    first, second = dots[:2]
    share = (0.25 - 0.2) / (0.8 - 0.2)
    assert float(str(first.get("cx"))) == pytest.approx(x_of["20 %"] + share * (x_of["80 %"] - x_of["20 %"]), abs=0.2)
    assert float(str(first.get("cy"))) == pytest.approx(y_of["50 %"], abs=0.2)
    assert (first.get("fill"), second.get("fill")) == (chart.COLOURS[0], "#ffffff")
    assert float(str(second.get("cy"))) == pytest.approx(y_of["90 %"], abs=0.2)
    for dot in dots:
        assert chart.LEFT <= float(str(dot.get("cx"))) <= chart.WIDTH - chart.RIGHT
        assert chart.TOP <= float(str(dot.get("cy"))) <= chart.HEIGHT - chart.BOTTOM
    assert "a <b>" in [text.text for text in root.iter(f"{SVG}text")]


@given(st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=8))
def test_ticks_are_few_even_and_around_all_values(values: list[float]) -> None:
    marks = chart.ticks(values)
    steps = np.diff(marks)
    assert marks[0] <= min(values) * (1 + 1e-6)
    assert marks[-1] >= max(values) * (1 - 1e-6)
    assert np.allclose(steps, steps[0])
    assert 2 <= len(marks) <= 8
