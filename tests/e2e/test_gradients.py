from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import shrinkc
from shrinkc.cli.compress import compress
from shrinkc.errors import CalibrationError

MODEL = Path(__file__).parents[2] / "benchmarks" / "models" / "resnet20.onnx"
QUICK = {"verify": False, "measure_latency": False}


def gradients(path: Path, silent: int) -> Path:
    """Gradients by which one channel of the first inner layer matters to nobody, and all others do."""
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(str(MODEL)).graph.initializer}
    arrays = {name: np.sign(array)[None] for name, array in stored.items() if array.ndim > 1}
    arrays["blocks.0.conv1.weight"][:, silent] = 0
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_a_channel_that_no_loss_depends_on_goes_first(criterion: str, tmp_path: Path) -> None:
    found = gradients(tmp_path / "g.npz", silent=5)
    plan = tmp_path / "plan.json"
    options = {"criterion": criterion, "allocator": "uniform", "prune_ratio": 0.07, "round_to": 1}
    shrinkc.compress(MODEL, output=tmp_path / "o.onnx", gradients=found, save_plan=plan, **options, **QUICK)
    from shrinkc import plan as plans

    kept = plans.read(plan).keep()["blocks.0.conv1.weight"]
    assert set(range(16)) - set(kept) == {5}


def test_gradients_of_the_wrong_shape_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "g.npz", **{"blocks.0.conv1.weight": np.zeros((16, 16, 3, 3), np.float32)})
    with pytest.raises(CalibrationError, match="wrong shape"):
        shrinkc.compress(MODEL, output=tmp_path / "o.onnx", criterion="taylor", gradients=tmp_path / "g.npz", **QUICK)


def test_gradients_without_a_criterion_that_reads_them_are_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(compress, [str(MODEL), "--gradients", str(tmp_path / "g.npz")])
    assert result.exit_code == 2
    assert "--gradients has no effect" in result.output
