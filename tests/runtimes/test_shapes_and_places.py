"""Sizes that are said for engines that want them said, and engines in environments that a variable names."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
from shrinkc.runtimes.environments import InEnvironment
from shrinkc.runtimes.fixed_shapes import with_fixed_shapes

from shrinkc.signature import read_signature

MODEL = """
<ir_version: 8, opset_import: ["": 17]>
net (float[n,3,n,n] x) => (float[n,2,n,n] y)
<float[2,3,1,1] w>
{
    a = Relu (x)
    y = Conv (a, w)
}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """All free sizes have one name, and mean different ones, as PaddlePaddle's exporter writes them."""
    import numpy as np

    parsed = onnx.parser.parse_model(MODEL)
    parsed.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w"))
    onnx.save(parsed, str(tmp_path / "model.onnx"))
    return tmp_path / "model.onnx"


def sizes(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


def test_every_size_is_fixed_in_a_copy_and_the_model_stays(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    signature = read_signature(model, {"x": (1, 3, 8, 4)})
    fixed = onnx.load(str(with_fixed_shapes(model, signature, tmp_path / "fixed.onnx")))
    assert sizes(fixed.graph.input[0]) == [1, 3, 8, 4]
    assert sizes(fixed.graph.output[0]) == [1, 2, 8, 4]
    assert model.read_bytes() == before


def test_a_model_without_free_sizes_is_not_copied(model: Path, tmp_path: Path) -> None:
    signature = read_signature(model, {"x": (1, 3, 8, 4)})
    fixed = with_fixed_shapes(model, signature, tmp_path / "fixed.onnx")
    assert with_fixed_shapes(fixed, signature, tmp_path / "again.onnx") == fixed


class Apart(InEnvironment):
    name = "apart"
    backend = Path("nowhere.py")
    distributions = ("some-engine",)
    modules = ("some_engine",)
    hint = "pip install some-engine"
    variable = "SHRINKC_APART"


def test_the_environment_of_a_variable_is_looked_into_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHRINKC_APART", raising=False)
    assert "export SHRINKC_APART=" in Apart().probe().hint
    monkeypatch.setenv("SHRINKC_APART", str(tmp_path / "bin" / "python"))
    assert "names no file" in Apart().probe().reason
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    assert "some-engine is not in the environment" in Apart().probe().reason
    (tmp_path / "lib" / "python3.12" / "site-packages" / "Some_Engine-1.2.3.dist-info").mkdir(parents=True)
    assert (Apart().probe().is_available, Apart().probe().version) == (True, "1.2.3")
