"""Samples come out as they were put in, whatever they were put into; what does not fit is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from models.builder import Net
from models.topologies import TOPOLOGIES

from shrinkc import ir as shrinkc_ir
from shrinkc.errors import CalibrationError, RecipeError
from shrinkc.evidence import sources
from shrinkc.evidence.data import Data, check_labels, evenly_spaced

X = np.random.default_rng(0).standard_normal((10, 3, 12, 12)).astype(np.float32)
LABELS = np.arange(10) % 5

Save = Callable[..., Path]


@pytest.fixture
def chain(saved: Save) -> ir.Model:
    return shrinkc_ir.load(saved(TOPOLOGIES["chain"]()))


@pytest.fixture
def two_inputs(saved: Save) -> ir.Model:
    net = Net()
    sides = [net.cbr(net.input(name, ["n", 3, 8, 8]), 3, 8) for name in ("left", "right")]
    net.output(net.head(net.op("Add", *sides), 8))
    return shrinkc_ir.load(saved(net))


@pytest.fixture
def batch_of_two(saved: Save) -> ir.Model:
    net = Net()
    net.output(net.head(net.cbr(net.input("x", [2, 3, 12, 12]), 3, 8), 8))
    return shrinkc_ir.load(saved(net))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "samples"
    path.mkdir()
    return path


def batches_of(folder: Path, *sizes: int, **changes: Any) -> Path:
    start = 0
    for number, size in enumerate(sizes):
        part = slice(start, start + size)
        np.savez(folder / f"{number}.npz", **{"x": X[part], "labels": LABELS[part]} | changes)
        start += size
    return folder


def test_an_npy_is_the_only_input(chain: ir.Model, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    data = sources.load(tmp_path / "x.npy", chain)
    assert np.array_equal(data.inputs["x"], X)
    assert data.labels is None


def test_an_npy_for_two_inputs_is_refused(two_inputs: ir.Model, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(CalibrationError, match=r"expected \['left', 'right'\], found one array"):
        sources.load(tmp_path / "x.npy", two_inputs)


def test_a_folder_of_one_npy_per_input_keeps_the_inputs_apart(two_inputs: ir.Model, folder: Path) -> None:
    for name, factor in (("left", 1), ("right", 2)):
        np.save(folder / f"{name}.npy", X[:, :, :8, :8] * factor)
    np.save(folder / "labels.npy", LABELS)
    data = sources.load(folder, two_inputs, most=3)
    assert np.array_equal(data.inputs["right"], 2 * data.inputs["left"])
    assert np.array_equal(data.inputs["left"], X[[0, 3, 6], :, :8, :8])
    assert data.labels is not None
    assert data.labels.tolist() == LABELS[[0, 3, 6]].tolist()


def test_a_folder_of_batches_is_one_array_in_the_order_of_the_names(chain: ir.Model, folder: Path) -> None:
    data = sources.load(batches_of(folder, 4, 1, 5), chain)
    assert np.array_equal(data.inputs["x"], X)
    assert data.labels is not None
    assert np.array_equal(data.labels, LABELS)
    assert data.source == "samples"


@pytest.mark.parametrize("most", [1, 3, 4, 9, 10, 99])
def test_a_limit_takes_samples_evenly_spaced_over_all_files(chain: ir.Model, folder: Path, most: int) -> None:
    data = sources.load(batches_of(folder, 4, 1, 5), chain, most=most)
    assert np.array_equal(data.inputs["x"], X[evenly_spaced(10, most)])
    assert data.labels is not None
    assert np.array_equal(data.labels, LABELS[evenly_spaced(10, most)])


def test_a_file_may_hold_one_sample_without_a_batch_axis(chain: ir.Model, folder: Path) -> None:
    for number in range(4):
        np.save(folder / f"{number}.npy", X[number])
    np.save(folder / "labels.npy", LABELS[:4])
    data = sources.load(folder, chain)
    assert np.array_equal(data.inputs["x"], X[:4])
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 3]
    labels = sources.load(folder, chain, most=2).labels
    assert labels is not None
    assert labels.tolist() == [0, 2]
    for number in range(4):
        (folder / f"{number}.npy").unlink()
        np.savez(folder / f"{number}.npz", x=X[number], labels=LABELS[number])
    (folder / "labels.npy").unlink()
    assert np.array_equal(sources.load(folder, chain).inputs["x"], X[:4])


def test_only_files_that_samples_are_taken_of_are_read(chain: ir.Model, folder: Path) -> None:
    for number in range(4):
        np.save(folder / f"{number}.npy", X[number])
    whole = (folder / "1.npy").read_bytes()
    (folder / "1.npy").write_bytes(whole[:-100])
    assert np.array_equal(sources.load(folder, chain, most=2).inputs["x"], X[[0, 2]])
    with pytest.raises(CalibrationError, match="cannot be read"):
        sources.load(folder, chain)


@pytest.mark.parametrize("name", ["notes.npz", "notes.npy"])
def test_a_file_of_something_else_is_called_so(name: str, chain: ir.Model, tmp_path: Path) -> None:
    (tmp_path / name).write_text("no arrays at all")
    with pytest.raises(CalibrationError, match="it is no array file"):
        sources.load(tmp_path / name, chain)


def test_a_fixed_batch_gets_whole_batches(batch_of_two: ir.Model, folder: Path, tmp_path: Path) -> None:
    assert sources.load(batches_of(folder, 4, 1, 4), batch_of_two).n_samples == 8
    assert sources.load(folder, batch_of_two, most=5).n_samples == 4
    assert sources.load(folder, batch_of_two, most=1).n_samples == 2
    np.savez(tmp_path / "data.npz", x=X)
    assert sources.load(tmp_path / "data.npz", batch_of_two, most=7).n_samples == 6


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.npz": {"x": X}, "b.npz": {"y": X}}, "expected ['x'] as before, found ['y']"),
        ({"a.npz": {"y": X}}, "expected ['x'], found ['y']"),
        ({"a.npz": {"x": X}, "b.npz": {"x": X[:, :, :9]}}, "found float32 [samples, 3, 9, 12]"),
        (
            {"a.npz": {"x": X}, "b.npz": {"x": X.astype(float)}},
            "expected float32 [samples, 3, 12, 12] as before, found float64",
        ),
        ({"a.npz": {"x": X, "labels": LABELS[:3]}}, "'labels': 3"),
        ({"a.npz": {"x": X}, "b.npy": X}, "both .npz and .npy"),
        ({"a.npy": X, "labels.npy": LABELS[:3]}, "10 in the files, 3 in labels.npy"),
        ({"a.npz": {"x": X[:0]}}, "no samples"),
        ({"a.npz": {"x": np.float32(1)}}, "no samples"),
        ({"a.npz": {"x": X * np.inf}}, "NaN or infinity"),
        ({}, "expected .npz, .npy or images, found nothing"),
        ({"notes.txt": None}, "found notes.txt"),
        ({"a.npz": None}, "cannot be read"),
    ],
)
def test_folders_that_do_not_fit_are_refused_with_what_was_found(
    files: dict[str, Any], expected: str, chain: ir.Model, folder: Path
) -> None:
    for name, content in files.items():
        if content is None:
            (folder / name).write_text("nothing of use")
        elif isinstance(content, dict):
            np.savez(folder / name, **content)
        else:
            np.save(folder / name, content)
    with pytest.raises(CalibrationError) as caught:
        sources.load(folder, chain)
    assert expected in str(caught.value)


def test_too_few_samples_are_refused(chain: ir.Model, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    assert sources.load(tmp_path / "x.npy", chain, at_least=10).n_samples == 10
    with pytest.raises(CalibrationError, match="expected at least 11, found 10"):
        sources.load(tmp_path / "x.npy", chain, at_least=11)


def test_bytes_for_a_float_input_lead_to_preprocessing(chain: ir.Model, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 3, 12, 12), np.uint8))
    with pytest.raises(CalibrationError, match="expected float32, found uint8") as caught:
        sources.load(tmp_path / "x.npy", chain)
    assert "--preprocess" in caught.value.hint


# A module of the user's own.

LOADER = """
import numpy as np
ENDED = []
def batches():
    buffer = np.zeros((4, 3, 12, 12), np.float32)
    for number in range(1000):
        buffer[:] = number
        print("loading", number)
        yield {"x": buffer, "labels": np.full(4, number)}
        ENDED.append(number)
def few():
    yield {"x": np.ones((3, 3, 12, 12), np.float32)}
class Loader:
    few = staticmethod(few)
def failing():
    yield {"x": np.ones((3, 3, 12, 12), np.float32)}
    raise KeyError("no more disk")
def leaving():
    raise SystemExit(3)
def one():
    return {"x": np.ones((3, 3, 12, 12), np.float32)}
def tuples():
    yield (1, 2)
def nothing():
    return []
def ragged():
    yield {"x": np.ones((3, 3, 12, 12), np.float32)}
    yield {"x": np.ones((3, 3, 9, 9), np.float32)}
def lists():
    yield {"x": [[0.5]]}
def unlike():
    yield {"x": np.ones((3, 3, 12, 12), np.float32), "labels": np.zeros(2, int)}
def made_up_for():
    yield {"x": np.ones((3, 3, 12, 12), np.float32), "labels": np.zeros(2, int)}
    yield {"x": np.ones((2, 3, 12, 12), np.float32), "labels": np.zeros(3, int)}
number = 3
"""


@pytest.fixture
def loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_loader.py").write_text(LOADER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_loader", raising=False)
    return "my_loader"


def test_a_callable_of_the_current_folder_yields_batches(
    loader: str, chain: ir.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    path = list(sys.path)
    data = sources.load(f"{loader}:batches", chain, most=10)
    assert data.inputs["x"][:, 0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert sys.modules[loader].ENDED == [0, 1], "it was asked for no more than was needed"
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("loading")) == ("", 3)
    assert sys.path == path
    assert sources.load(f"{loader}:Loader.few", chain).n_samples == 3


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fewer", "has no fewer"),
        ("number", "found int"),
        ("failing", "KeyError: 'no more disk'"),
        ("leaving", "SystemExit: 3"),
        ("one", "expected an iterable, found dict"),
        ("tuples", "found tuple"),
        ("nothing", "found an empty sequence"),
        ("ragged", "expected float32 [samples, 3, 12, 12] as before, found float32 [samples, 3, 9, 9]"),
        ("lists", "expected float32, found float64"),
        ("unlike", "different numbers of samples"),
        ("made_up_for", "batch 0"),
    ],
)
def test_a_callable_that_goes_wrong_is_refused_with_what_it_did(name: str, expected: str, loader: str, chain: ir.Model) -> None:
    with pytest.raises(CalibrationError) as caught:
        sources.load(f"{loader}:{name}", chain)
    assert expected in str(caught.value)


def test_a_module_that_is_not_there_is_named(chain: ir.Model) -> None:
    with pytest.raises(CalibrationError, match="No module named 'nowhere_at_all'"):
        sources.load("nowhere_at_all:batches", chain)


# Which samples.


def test_evenly_spaced_samples_span_the_whole_in_order() -> None:
    for total in range(1, 40):
        for most in range(1, 45):
            chosen = evenly_spaced(total, most)
            assert len(chosen) == min(total, most)
            gaps = np.diff([*chosen, total + chosen[0]])
            assert gaps.max() - gaps.min() <= 1
            assert (gaps > 0).all()


def test_a_split_loses_no_sample_and_is_the_same_every_time() -> None:
    data = Data({"x": np.arange(103)}, np.arange(103) % 7, "toy")
    calibration, held_out = data.split(5)
    assert sorted([*calibration.inputs["x"], *held_out.inputs["x"]]) == list(range(103))
    assert (held_out.inputs["x"] // 5).tolist() == list(range(20)), "one of every five"
    assert held_out.labels is not None
    assert np.array_equal(held_out.labels, held_out.inputs["x"] % 7)
    assert np.array_equal(data.split(5)[1].inputs["x"], held_out.inputs["x"])


@pytest.mark.parametrize("period", [2, 4, 5, 6, 8, 10])
def test_samples_that_go_round_the_classes_are_held_out_of_every_class(period: int) -> None:
    data = Data({"x": np.arange(400)}, np.arange(400) % period, "toy")
    labels = data.split(period)[1].labels
    assert labels is not None
    assert set(labels) == set(range(period))


def test_a_split_keeps_batches_together() -> None:
    calibration, held_out = Data({"x": np.arange(40)}, None, "toy").split(4, batch=2)
    for part in (calibration, held_out):
        pairs = part.inputs["x"].reshape(-1, 2)
        assert (pairs[:, 0] % 2 == 0).all()
        assert (pairs[:, 1] == pairs[:, 0] + 1).all()


def test_too_few_samples_to_split_are_refused() -> None:
    with pytest.raises(CalibrationError, match="expected at least 10, found 9"):
        Data({"x": np.arange(9)}, None, "toy").split(5, batch=2)


def test_class_names_must_be_all_of_the_models_classes() -> None:
    data = Data({"x": np.arange(2)}, np.arange(2), "toy", class_names=("cat", "dog"))
    check_labels(data, [(1, 2)])
    check_labels(data, [None])
    with pytest.raises(CalibrationError, match="expected 1000, found 2 folders"):
        check_labels(data, [(1, 1000)])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"most": 3}, "--samples"),
        ({"preprocess": "unit"}, "--preprocess"),
        ({"data": "data.npz", "preprocess": "unit"}, "without a folder of images"),
        ({"data": "data.npz", "most": 0}, "at least 1"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], expected: str, chain: ir.Model, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X)
    given = {name: str(tmp_path / value) if name == "data" else value for name, value in settings.items()}
    with pytest.raises(RecipeError) as caught:
        sources.load_given(given.pop("data", None), None, chain, **given)
    assert expected in str(caught.value)
