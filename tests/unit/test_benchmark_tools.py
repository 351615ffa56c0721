"""The accuracy benchmark's own logic: what is run again, what several seeds come to, how MACs and lines of text are made."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import parser

import shrinkc
from shrinkc import registry

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))


def imported(name: str) -> ModuleType:
    return importlib.import_module(name)


def result(seed: int, accuracy: float | None, failed: str = "", method: str = "l2+none+global"):
    rows = imported("accuracy_rows")
    cell = rows.Cell("resnet20", 50, "shrinkc", method, seed)
    return rows.Row(cell, accuracy, None if failed else 0.5, 1.0, 1, failed)


def test_mean_and_standard_deviation_are_over_seeds_of_one_method():
    rows = [result(0, 0.8), result(1, 0.9), result(2, 0.7), result(0, 0.1, method="random+none+global")]
    first, second = imported("accuracy_rows").summarise(rows)
    assert (first.runs, first.mean, first.std) == (3, pytest.approx(0.8), pytest.approx(0.1))
    assert (second.runs, second.mean, second.std) == (1, 0.1, None)
    assert first.text() == "80.0 ±10.0"


def test_a_method_that_fails_with_one_seed_has_no_mean_and_says_why():
    rows = [result(0, 0.8), result(1, None, "IndexError: 7")]
    table = imported("accuracy_rows").table(rows)
    assert "failed" in table
    assert "IndexError: 7" in table
    assert "80.0" not in table


def test_results_are_read_as_they_were_written_and_their_order_is_fixed(tmp_path):
    tools, path, other = imported("accuracy_rows"), tmp_path / "a.json", tmp_path / "b.json"
    rows = [result(1, 0.9), result(0, None, "no")]
    tools.write(path, {"originals": {}}, rows)
    tools.write(other, {"originals": {}}, rows[::-1])
    assert set(tools.read(path)["rows"]) == set(rows)
    assert path.read_text() == other.read_text()


def test_resuming_runs_only_what_is_missing_and_keeps_the_rest(tmp_path, monkeypatch):
    accuracy, tools, path = imported("accuracy"), imported("accuracy_rows"), tmp_path / "accuracy.json"
    asked = []
    bench = _bench(accuracy, tmp_path, asked)
    old = result(0, 0.8)
    peer = tools.Row(tools.Cell("resnet20", 50, "onnxsim", "l2-local", 0), 0.6, 0.5, 1.0, 1)
    known = {"originals": {"resnet20": accuracy.original(bench, "resnet20", {})}}
    tools.write(path, known, [old, peer])
    todo = [old.cell, result(1, None).cell]
    accuracy.updated(bench, path, todo, resume=True)
    assert asked == [todo[1]]
    assert {row.cell for row in tools.read(path)["rows"]} == {*todo, peer.cell}
    assert next(row for row in tools.read(path)["rows"] if row.cell == old.cell).accuracy == 0.8


def test_running_a_cell_again_replaces_its_row(tmp_path):
    accuracy, tools, path = imported("accuracy"), imported("accuracy_rows"), tmp_path / "accuracy.json"
    bench, cell = _bench(accuracy, tmp_path, []), result(0, None).cell
    tools.write(path, {"originals": {"resnet20": accuracy.original(bench, "resnet20", {})}}, [result(0, 0.8)])
    accuracy.updated(bench, path, [cell], resume=False)
    assert [row.accuracy for row in tools.read(path)["rows"]] == [0.7]


def test_rows_of_another_model_of_the_same_name_are_dropped(tmp_path):
    accuracy, tools, path = imported("accuracy"), imported("accuracy_rows"), tmp_path / "accuracy.json"
    asked = []
    tools.write(path, {"originals": {"resnet20": {"sha256": "of an older training"}}}, [result(0, 0.8)])
    accuracy.updated(_bench(accuracy, tmp_path, asked), path, [result(1, None).cell], resume=True)
    assert [row.cell.seed for row in tools.read(path)["rows"]] == [1]


def _bench(accuracy, folder, asked):
    class Pretending(accuracy.Bench):
        def score(self, model):
            return {"accuracy": 0.9, "macs": 100}

        def rows(self, cells, dense_macs):
            asked.extend(cells)
            yield from (imported("accuracy_rows").Row(cell, 0.7, 0.5, 1.0, 1) for cell in cells)

    (folder / "resnet20.onnx").write_bytes(b"a model")
    return Pretending(folder, {}, folder)


def test_one_seed_is_enough_only_for_what_sees_nothing_but_weights():
    grid = imported("accuracy_grid")
    seeds = {}
    for cell in grid.cells(["resnet20"], [50], "*"):
        seeds.setdefault(cell.label, []).append(cell.seed)
    for deterministic in ("shrinkc l2+none+uniform", "torch-pruning l2-local", "onnxsim l1-global"):
        assert seeds[deterministic] == [0]
    for drawn in (
        "shrinkc random+none+uniform",
        "shrinkc l2+refit+uniform",
        "torch-pruning taylor-global",
        "onnxsim l2-local+ridge",
    ):
        assert seeds[drawn] == [0, 1, 2]


def test_the_grid_is_wide_enough():
    grid = imported("accuracy_grid")
    widest = max(grid.GRID, key=lambda parts: len(parts[0]) * len(parts[1]) * len(parts[2]))
    assert all(len(part) >= least for part, least in zip(widest, (5, 3, 2), strict=True))
    for parts in grid.GRID:
        for group, part in zip(("criteria", "compensation", "allocators"), parts, strict=True):
            assert set(part) <= {"none", *registry.names(group)}, "every method of the grid is there"
    assert grid.DEFAULT in {method for tool, method in grid.methods() if tool == "shrinkc"}


def test_an_outcome_is_the_last_line_and_a_bad_end_is_a_failure_with_its_reason():
    run, python = imported("processes").run, sys.executable
    good = run(python, "-c", "print('noise'); print('{\"a\": 1}')")
    assert good.answer == {"a": 1}
    assert good.cpu_s > 0
    assert run(python, "-c", "raise ValueError('no such layer')").answer == {"failed": "exit 1: ValueError: no such layer"}


def test_every_line_is_an_outcome_and_a_bad_end_is_not_passed_over():
    announced, python = imported("processes").announced, sys.executable
    line = 'print(\'{"macs": 3, "cpu_s": 0.5, "peak_bytes": 7}\')'
    first, second = announced(python, "-c", f"{line}; {line}")
    assert (first.answer, first.cpu_s, second.peak_bytes) == ({"macs": 3}, 0.5, 7)
    with pytest.raises(SystemExit, match="exit 3"):
        list(announced(python, "-c", "raise SystemExit(3)"))


@pytest.mark.parametrize("method", ["random+affine+lagrangian", "obs+rectified+uniform"])
def test_a_sweep_writes_the_file_that_compress_writes(tmp_path, method):
    model = tmp_path / "net.onnx"
    onnx.save(_small_net(np.random.default_rng(1)), model)
    np.savez(tmp_path / "x.npz", image=np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32))
    imported("shrinkc_sweep").Sweep(model, tmp_path / "x.npz", 3).write(method, 50, tmp_path / "swept.onnx")
    criterion, compensation, allocator = method.split("+")
    shrinkc.compress(
        model,
        output=tmp_path / "alone.onnx",
        data=tmp_path / "x.npz",
        eval_data=tmp_path / "x.npz",
        macs="50%",
        criterion=criterion,
        compensation=compensation,
        allocator=allocator,
        round_to=1,
        seed=3,
        verify=False,
        measure_latency=False,
    )
    assert (tmp_path / "swept.onnx").read_bytes() == (tmp_path / "alone.onnx").read_bytes()


def _small_net(rng: np.random.Generator) -> onnx.ModelProto:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        net (float[N,3,8,8] image) => (float[N,4] y) {
            a = Conv <pads = [1, 1, 1, 1]> (image, first, shift)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, second, shift)
            d = Relu (c)
            e = GlobalAveragePool (d)
            f = Flatten (e)
            y = Gemm <transB = 1> (f, head, offset)
        }"""
    )
    for name, shape in (("first", (8, 3, 3, 3)), ("second", (8, 8, 3, 3)), ("head", (4, 8)), ("shift", (8,)), ("offset", (4,))):
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def test_the_search_returns_the_largest_model_within_the_budget():
    search = imported("search")
    macs, ratio, model = search.Search(lambda ratio: (f"at {ratio}", int(1000 * (1 - ratio))), 500).run()
    assert macs == pytest.approx(500, abs=2)
    assert macs <= 500
    assert model == f"at {ratio}"
    with pytest.raises(search.OutOfReachError, match="600"):
        search.Search(lambda ratio: ("", max(600, int(1000 * (1 - ratio)))), 500).run()


def test_macs_are_those_of_a_count_by_hand(tmp_path):
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        net (float[N,1,28,28] image) => (float[N,10] y) {
            a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (image, w)
            b = Conv <group = 16, pads = [1, 1, 1, 1]> (a, d)
            c = GlobalAveragePool (b)
            f = Flatten (c)
            y = Gemm <transB = 1> (f, g)
        }"""
    )
    for name, shape in (("w", (16, 1, 3, 3)), ("d", (16, 1, 3, 3)), ("g", (10, 16))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    onnx.save(model, tmp_path / "net.onnx")
    by_hand = 16 * 9 * 14 * 14 + 16 * 9 * 14 * 14 + 10 * 16
    assert imported("score").macs(tmp_path / "net.onnx", "image", (1, 28, 28)) == by_hand


def test_accuracy_is_the_share_of_largest_scores_at_the_label(tmp_path):
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> net (float[N,4] x) => (float[N,4] y) { y = Neg (x) }"""
    )
    onnx.save(model, tmp_path / "net.onnx")
    samples = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]] * -1
    labels = np.array([0, 1, 2, 0, 1])
    assert imported("score").accuracy(tmp_path / "net.onnx", "x", samples, labels, batch=2) == pytest.approx(3 / 5)


def test_calibration_images_differ_by_seed_and_were_not_trained_on():
    fashion = imported("fashion")
    first, second = fashion.chosen(512, 0, 60_000), fashion.chosen(512, 1, 60_000)
    assert len(set(first.tolist())) == 512
    assert min(first) >= 55_000
    assert set(first.tolist()) != set(second.tolist())
    assert np.array_equal(first, fashion.chosen(512, 0, 60_000))


def test_rendered_lines_depend_on_the_seed_alone():
    pytest.importorskip("PIL")
    lines = imported("text_lines")
    fonts = lines.fonts_below(lines.FONTS)[:2]
    if not fonts:
        pytest.skip("no fonts are installed")
    images, labels = lines.lines(8, 3, fonts)
    again, _ = lines.lines(8, 3, fonts)
    other, _ = lines.lines(8, 4, fonts)
    assert np.array_equal(images, again)
    assert not np.array_equal(images, other)
    assert images.shape == (8, 3, 48, 192)
    assert set(labels.tolist()) == {0, 1}


def test_a_column_shows_the_best_of_its_methods_and_says_what_did_not_run():
    tables, rows = imported("readme_tables"), imported("accuracy_rows")
    measured = [
        result(0, 0.8),
        result(1, 0.9),
        result(0, 0.95, method="l1+none+global"),
        result(0, None, "no", "l1+none+uniform"),
    ]
    summaries = rows.summarise(measured)
    assert tables.best(summaries, ("shrinkc l2", "shrinkc l1")) == "95.0"
    assert tables.best(summaries, ("shrinkc l2",)) == "85.0 ±7.1"
    assert tables.best(summaries, ("shrinkc l1+none+uniform",)) == "failed"
    assert tables.best(summaries, ("onnxsim",)) == "not run"


def test_the_table_of_runtimes_shows_errors_and_says_once_why_there_are_none():
    def row(runtime, status, level="validated", error=0.0, reason="", place="this machine"):
        own = {"relative": error} if status == "ok" else None
        return {"version": "1", **locals()}

    first = [row("a", "ok", error=2.4e-7), row("b", "not run", "not run", reason="no card; get one"), row("c", "ok")]
    first += [{**row("d", "not run", "converted", reason="no driver"), "judged_nodes": 5, "refused_nodes": 1}]
    second = [row("a", "failed", "converted", reason="it | crashed"), row("b", "not run", "not run", reason="no card")]
    second += [row("arm64:a", "ok", place="arm64 emulated")]
    models = {name: {"title": name, "macs_left": 0.5, "results": rows} for name, rows in (("m", first), ("n", second))}
    assert imported("validation_table").markdown({"models": models}).splitlines() == [
        "| runtime | m, 50 % | n, 50 % | |",
        "|---|---:|---:|---|",
        "| a 1 | 2e-07 | **fails: loading** | it / crashed |",
        "| b 1 | not run | not run | no card |",
        "| c 1 | 0 | not tried |  |",
        "| d 1 | not run; parser takes 4/5 nodes | not tried | no driver |",
        "| a 1, arm64 emulated | not tried | 0 |  |",
    ]


def test_pages_have_text_that_depends_on_the_seed_alone():
    text_pages, text_lines = imported("text_pages"), imported("text_lines")
    fonts = text_lines.fonts_below(text_lines.FONTS)
    if not fonts:
        pytest.skip(f"there are no fonts below {text_lines.FONTS}")
    first, again, other = (text_pages.pages(2, seed, fonts) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (2, 3, 320, 320)
    assert not np.array_equal(first, other)
    assert first.std(axis=(1, 2, 3)).min() > 0.05


def test_tables_of_the_readme_are_those_of_the_committed_results():
    tables, readme = imported("readme_tables"), (BENCHMARKS.parent / "README.md").read_text(encoding="utf-8")
    for table in tables.TABLES:
        assert tables.with_table(readme, table) == readme, "python benchmarks/readme_tables.py --write"


def test_gains_are_of_the_time_at_which_the_best_models_so_far_reach_an_accuracy():
    def curve(*points: tuple[float, float]) -> list[dict[str, float]]:
        return [{"time_share": time, "accuracy": accuracy} for time, accuracy in points]

    driven = imported("latency_driven")
    by_time = curve((0.2, 0.88), (0.6, 0.92))
    by_macs = curve((0.8, 0.92), (0.4, 0.88), (0.5, 0.85))  # the last is slower than another and worse: nobody takes it
    assert driven.time_at(0.9, by_time) == pytest.approx(0.4)
    assert driven.time_at(0.9, by_macs) == pytest.approx(0.6)
    assert np.isnan(driven.time_at(0.93, by_time))
    assert driven.gains(0.92, by_macs, by_time) == {
        "0.5 points": pytest.approx(1 - 0.55 / 0.75),
        "1 points": pytest.approx(1 - 0.5 / 0.7),
        "2 points": pytest.approx(1 - 0.4 / 0.6),
        "4 points": pytest.approx(1 - 0.2 / 0.4),
    }
