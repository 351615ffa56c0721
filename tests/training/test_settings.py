"""Settings: of the right type, in their range, with an effect; and what a result leaves that fails its proof."""

from __future__ import annotations

import sys
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from models.builder import Net
from training.lessons import blobs, convnet, lesson, loaded, mlp, pictures, settings

import shrinkc
from shrinkc import registry
from shrinkc.errors import RecipeError, VerificationError
from shrinkc.log import Silent
from shrinkc.training import recipe_files
from shrinkc.training.field_types import of_right_types
from shrinkc.training.running import trained

AT_THE_END: list[tuple[str, dict[str, Any]]] = [
    ("distillation", {}),
    ("iterative-magnitude", {"levels": 1}),
    ("iterative-magnitude", {"levels": 1, "retraining": "weights"}),
    ("gradual-magnitude", {"every": 2}),
    ("network-slimming", {}),
    ("lrpet", {"macs": "60%", "every": 2}),
    ("flop", {"target": 0.8}),
]


@pytest.mark.parametrize(("method", "options"), AT_THE_END)
def test_statistics_are_measured_anew_after_every_method(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    chosen = settings(method=method, options=options, budget="6steps", batch_norm="batch", reestimate=True)
    what = lesson(loaded(convnet(1), tmp_path), pictures(), loaded(convnet(2), tmp_path))
    told = [record["phase"] for record in trained(what, chosen, Silent()).context.records]
    assert told.count("statistics") == 1
    assert "train" not in told[told.index("statistics") :]


@pytest.mark.parametrize("name", ["lrpet", "slimming", "lottery-ticket"])
def test_patience_is_refused_where_the_last_weights_are_meant(name: str) -> None:
    with pytest.raises(RecipeError, match="keeps its last weights") as caught:
        recipe_files.resolve(name, patience=3)
    assert "patience = 3" in str(caught.value)


@pytest.mark.parametrize("name", ["recovery", "iterative-magnitude", "gradual-magnitude", "flop"])
def test_patience_is_taken_where_the_best_weights_are_kept(name: str) -> None:
    assert recipe_files.resolve(name, patience=3).patience == 3


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("iterative-magnitude", "fraction", 1.0),
        ("iterative-magnitude", "levels", -1),
        ("gradual-magnitude", "ramp", 0.0),
        ("gradual-magnitude", "every", 0),
        ("network-slimming", "strength", -1e-4),
        ("lrpet", "reduction", 1.0),
        ("lrpet", "round_to", 0),
        ("flop", "target", 1.0),
        ("flop", "gate_rate", 0.0),
        ("flop", "gate_rate", float("nan")),
    ],
)
def test_an_option_out_of_its_range_is_named_with_its_value_and_the_range(method: str, option: str, value: float) -> None:
    with pytest.raises(RecipeError, match="out of its range") as caught:
        registry.load("training", method)(**{option: value})
    assert caught.value.where == f"{option} = {value}"
    assert caught.value.hint.startswith("it must be ")


def options_of(folder: Path, monkeypatch: pytest.MonkeyPatch, annotations: str) -> Any:
    """The class of somebody's own method, its annotations kept as texts or not."""
    text = f"""{annotations}
from collections.abc import Mapping
from dataclasses import dataclass
import typing

@dataclass(frozen=True)
class Own:
    strength: float = 1.0
    names: tuple[str, ...] = ()
    ranks: Mapping[str, int] = None
    others: "Mapping[str, typing.Any]" = None
    limit: float | None = None
"""
    (folder / "own_method.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "own_method", raising=False)
    import own_method  # type: ignore[import-not-found]

    return own_method.Own


@pytest.mark.parametrize("annotations", ["", "from __future__ import annotations"])
def test_options_of_ones_own_method_are_checked_however_its_annotations_are_kept(
    annotations: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = options_of(tmp_path, monkeypatch, annotations)
    found = of_right_types({"strength": 2, "names": ["a"], "ranks": {"a": 1}, "limit": 3}, own, "here")
    assert found == {"strength": 2.0, "names": ("a",), "ranks": {"a": 1}, "limit": 3}
    assert type(found["strength"]) is float
    for wrong in ({"strength": "much"}, {"names": [1]}, {"ranks": {"a": 0.5}}, {"others": 1}):
        with pytest.raises(RecipeError, match="wrong type"):
            of_right_types(wrong, own, "here")


def test_a_type_that_is_not_known_is_left_to_the_class() -> None:
    assert of_right_types({"x": object}, make_dataclass("Own", [("x", "Whatever")]), "here") == {"x": object}


def test_folded_normalisations_can_be_opened_and_the_refusal_says_so(tmp_path: Path) -> None:
    net = Net()
    x = net.relu(net.conv(net.input("image", ["N", 1, 8, 8]), 1, 8))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.output(str(net.op("Gemm", x, net.weight(3, 8), transB=1)))
    model = loaded(net.model(), tmp_path)
    chosen = settings(method="network-slimming", budget="2steps")
    with pytest.raises(RecipeError, match="needs BatchNormalization") as caught:
        trained(lesson(model, pictures(), loaded(net.model(), tmp_path)), chosen, Silent())
    assert "norms=opened" in caught.value.hint
    opened = settings(method="network-slimming", budget="2steps", norms="opened")
    assert trained(lesson(model, pictures(), loaded(net.model(), tmp_path)), opened, Silent()).error is None


@pytest.mark.parametrize("method", ["lrpet", "flop"])
def test_what_was_trained_outlives_a_proof_that_fails(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*arguments: object, **named: object) -> None:
        raise VerificationError("the factors do not give what the layers gave")

    module = sys.modules[registry.load("training", method).__module__]
    if method == "lrpet":
        monkeypatch.setattr(module, "decomposed", refusing)
    else:
        monkeypatch.setattr(module.OpenModel, "close", refusing)
    onnx.save(convnet(1, 16), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "d.npz", **pictures(96).inputs)
    options = {"macs": "60%", **({"every": 2} if method == "lrpet" else {})}
    given = {"method": method, "options": options, "budget": "6steps", "threads": 1, "batch": 16}
    with pytest.raises(VerificationError, match=r"(?s)do not give.*rejected\.onnx"):
        shrinkc.train(tmp_path / "m.onnx", data=tmp_path / "d.npz", output=tmp_path / "o.onnx", **given)
    assert not (tmp_path / "o.onnx").exists()
    session = onnxruntime.InferenceSession(tmp_path / "o.rejected.onnx")
    assert session.run(None, pictures(2).inputs)[0].shape == (2, 3)


def test_a_checkpoint_that_would_overwrite_what_is_read_is_named(tmp_path: Path) -> None:
    onnx.save(mlp(), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "d.npz", labels=blobs().labels, **blobs().inputs)
    given = {"recipe": "fine-tuning", "data": tmp_path / "d.npz", "output": tmp_path / "o.onnx"}
    with pytest.raises(RecipeError, match="overwrite") as caught:
        shrinkc.train(tmp_path / "m.onnx", checkpoint=tmp_path / "d.npz", **given)
    assert caught.value.where == str(tmp_path / "d.npz")
    assert caught.value.hint
