from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.builder import Net
from models.topologies import TOPOLOGIES

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc.errors import CalibrationError
from shrinkc.evidence import sources
from shrinkc.evidence.data import Data
from shrinkc.evidence.quality import measure

GOOD = np.zeros((4, 3, 12, 12), np.float32)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"y": GOOD}, "expected ['x'], found ['y']"),
        ({"x": GOOD, "more": GOOD}, "found ['more', 'x']"),
        ({"x": GOOD.astype(np.float64)}, "expected float32, found float64"),
        ({"x": GOOD[:, :2]}, "expected [samples, 3, 12, 12], found [4, 2, 12, 12]"),
        ({"x": GOOD[0]}, "found [3, 12, 12]"),
        ({"x": np.full_like(GOOD, np.nan)}, "NaN"),
        ({"x": GOOD[:0]}, "no samples"),
        ({"x": GOOD, "labels": np.zeros(3, np.int64)}, "'labels': 3"),
        ({"x": GOOD, "labels": np.zeros((4, 1), np.int64)}, "class numbers"),
        ({"x": GOOD, "labels": np.eye(4)}, "class numbers"),
        ({"x": GOOD, "labels": np.asarray(list("abcd"))}, "class numbers"),
        ({"x": GOOD, "labels": np.int64(3)}, "class numbers"),
        ({"x": GOOD, "labels": np.asarray([0, 1, 2, -1])}, "class numbers"),
    ],
)
def test_data_that_does_not_fit_is_refused_with_what_was_expected(
    arrays: dict[str, Any], expected: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    model = shrinkc_ir.load(saved(TOPOLOGIES["chain"]()))
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(CalibrationError) as caught:
        sources.load(tmp_path / "data.npz", model)
    assert expected in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04broken"])
def test_unreadable_data_says_how_to_write_it(content: bytes, saved: Callable[..., Path], tmp_path: Path) -> None:
    model = shrinkc_ir.load(saved(TOPOLOGIES["chain"]()))
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(CalibrationError, match=r"np\.savez"):
        sources.load(tmp_path / "data.npz", model)


def test_pickled_arrays_are_never_loaded(saved: Callable[..., Path], tmp_path: Path) -> None:
    model = shrinkc_ir.load(saved(TOPOLOGIES["chain"]()))
    np.savez(tmp_path / "data.npz", x=np.asarray([{"a": 1}], dtype=object))
    with pytest.raises(CalibrationError):
        sources.load(tmp_path / "data.npz", model)


def test_a_fixed_batch_takes_any_multiple_of_itself(saved: Callable[..., Path], tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", [2, 3, 8, 8])
    net.output(net.head(net.cbr(x, 3, 8), 8))
    model = shrinkc_ir.load(saved(net))
    np.savez(tmp_path / "data.npz", x=np.zeros((6, 3, 8, 8), np.float32))
    assert sources.load(tmp_path / "data.npz", model).n_samples == 6
    np.savez(tmp_path / "data.npz", x=np.zeros((5, 3, 8, 8), np.float32))
    with pytest.raises(CalibrationError, match="multiple of 2"):
        sources.load(tmp_path / "data.npz", model)


class Fixed:
    """A session that returns given scores, sample by sample."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"scores": self.scores[inputs["x"][:, 0].astype(int)]}


def test_accuracy_and_agreement_are_counted_by_hand() -> None:
    before = np.eye(4)[[0, 1, 2, 3]] * 2.0
    after = np.eye(4)[[0, 1, 3, 3]] * 2.0
    data = Data({"x": np.arange(4.0)[:, None]}, np.asarray([0, 1, 2, 2]), "toy")
    quality = measure(Fixed(before), Fixed(after), data, batch=3)  # type: ignore[arg-type]
    assert quality.accuracy_before == 0.75
    assert quality.accuracy_after == 0.5
    (output,) = quality.agreement
    assert output.top1 == 0.75
    assert output.cosine == pytest.approx(0.75)
    assert output.relative_error == pytest.approx(np.sqrt(8 / 16))


def test_labels_are_checked_against_the_outputs_before_anything_is_written(saved: Callable[..., Path], tmp_path: Path) -> None:
    path = saved(TOPOLOGIES["chain"]())
    np.savez(tmp_path / "data.npz", x=GOOD, labels=np.asarray([0, 1, 2, 99]))
    with pytest.raises(CalibrationError, match="labels up to 99"):
        shrinkc.compress(path, output=tmp_path / "out.onnx", data=tmp_path / "data.npz")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data.npz", "model.onnx"]


def test_labels_that_fit_no_output_are_refused() -> None:
    data = Data({"x": np.arange(4.0)[:, None]}, np.asarray([0, 1, 2, 9]), "toy")
    with pytest.raises(CalibrationError, match="labels"):
        measure(Fixed(np.eye(4)), Fixed(np.eye(4)), data, batch=4)  # type: ignore[arg-type]
