"""The worked example of a third party's operator rule, as CONTRIBUTING.md shows it; and what a wrong rule is told."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import shrinkc
from shrinkc import registry
from shrinkc.analysis.flow import Blocked, Role
from shrinkc.errors import ShrinkcError
from shrinkc.testing import prove_rule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "custom_operator"
WEIGHTS = ["before", "scale", "after"]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example's test module, with the package as good as installed: importable, its entry points found."""
    declared = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]["entry-points"]
    real = registry.entry_points

    def entry_points(group: str) -> list[EntryPoint]:
        return [*real(group=group), *(EntryPoint(name, value, group) for name, value in declared.get(group, {}).items())]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    monkeypatch.syspath_prepend(str(FOLDER))
    registry._points.cache_clear()
    yield importlib.import_module("test_acme_rules")
    registry._points.cache_clear()
    for name in ("acme_rules", "test_acme_rules"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["acme_rules.py", "test_acme_rules.py"])
def test_the_handbook_shows_the_files_as_they_are(name: str) -> None:
    assert f"```python\n{(FOLDER / name).read_text()}```" in (ROOT / "CONTRIBUTING.md").read_text()


def test_the_handbook_shows_the_entry_point_as_it_is() -> None:
    handbook = (ROOT / "CONTRIBUTING.md").read_text()
    block = next(part for part in handbook.split("```toml\n")[1:] if "oprules" in part).split("```")[0]
    assert block in (FOLDER / "pyproject.toml").read_text()


def test_the_test_of_the_example_passes(installed: ModuleType) -> None:
    installed.test_channels_go_together_with_their_scale()


def test_the_rule_is_found_by_its_entry_point(installed: ModuleType, tmp_path: Path) -> None:
    assert ("com.acme", "ScaledRelu") in registry.operator_rules()
    assert prove_rule(installed.MODEL, weights=WEIGHTS)["before"] > 0


def stored(model: onnx.ModelProto) -> onnx.ModelProto:
    """The example's model with its weights stored."""
    generator = np.random.default_rng(0)
    for value in [value for value in model.graph.input if value.name in WEIGHTS]:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        array = generator.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
        model.graph.input.remove(value)
    return model


def test_a_model_with_the_operator_is_pruned_across_it(installed: ModuleType, tmp_path: Path) -> None:
    model = stored(onnx.parser.parse_model(installed.MODEL))
    functions = list(model.functions)
    del model.functions[:]
    onnx.save(model, str(tmp_path / "in.onnx"))
    report = shrinkc.compress(
        tmp_path / "in.onnx", output=tmp_path / "out.onnx", prune_ratio=0.5, round_to=1, verify=False, measure_latency=False
    )
    assert {row.name: row.channels_after for row in report.groups} == {"before": 4}
    result = onnx.load(str(tmp_path / "out.onnx"))
    assert {tensor.name: list(tensor.dims) for tensor in result.graph.initializer}["scale"] == [4]
    assert [dim.dim_value for dim in result.graph.value_info[0].type.tensor_type.shape.dim] == [0, 4, 6, 6]
    result.functions.extend(functions)
    session = ort.InferenceSession(result.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.zeros((3, 3, 8, 8), np.float32)})
    assert y.shape == (3, 4, 6, 6)


def without_scale(flow, node):  # type: ignore[no-untyped-def]
    """Forgets that the scale goes along."""
    flow.assign(node.outputs[0], flow.labels_of(node.inputs[0]))


def backwards(flow, node):  # type: ignore[no-untyped-def]
    """Takes the scale of the opposite channel."""
    channels = flow.channels(node.inputs[0], 1)
    flow.attach(node, 1, 0, channels[::-1], Role.SCALES)
    flow.assign_channels(node.outputs[0], channels, 1)


def turned(flow, node):  # type: ignore[no-untyped-def]
    """Passes the channels on in the wrong order."""
    channels = flow.channels(node.inputs[0], 1)
    flow.attach(node, 1, 0, channels, Role.SCALES)
    flow.assign_channels(node.outputs[0], np.roll(channels, 1), 1)


@pytest.mark.parametrize("wrong", [without_scale, backwards, turned])
def test_a_wrong_rule_is_told_what_it_kept_and_what_differs(wrong: Callable[..., None], installed: ModuleType) -> None:
    with pytest.raises(AssertionError, match="not the same as silencing") as caught:
        prove_rule(installed.MODEL, weights=WEIGHTS, rules={("com.acme", "ScaledRelu"): wrong})
    assert "of before" in str(caught.value)


def test_a_rule_that_refuses_is_told_its_reason(installed: ModuleType) -> None:
    def refusing(*_: object) -> None:
        raise Blocked("the moon is full")

    with pytest.raises(AssertionError, match="the moon is full"):
        prove_rule(installed.MODEL, weights=WEIGHTS, rules={("com.acme", "ScaledRelu"): refusing})


def test_a_rule_that_forgets_an_output_refuses(installed: ModuleType) -> None:
    with pytest.raises(AssertionError, match="does not cover it"):
        prove_rule(installed.MODEL, weights=WEIGHTS, rules={("com.acme", "ScaledRelu"): lambda *_: None})


def test_an_operator_without_meaning_cannot_be_proved(installed: ModuleType) -> None:
    model = onnx.parser.parse_model(installed.MODEL)
    del model.functions[:]
    with pytest.raises(AssertionError, match="does not load"):
        prove_rule(model, weights=WEIGHTS)


def test_a_weight_that_is_no_input_is_named(installed: ModuleType) -> None:
    with pytest.raises(ShrinkcError, match="ghost"):
        prove_rule(installed.MODEL, weights=["ghost"])
