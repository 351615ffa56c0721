"""Least squares for what a mask leaves, against numpy's, against convolutions, and in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from models.builder import Net
from shrinkc.passes.training.iterative_magnitude import IterativeMagnitude
from training.lessons import context, convnet, lesson, loaded, mlp, pictures, settings

from shrinkc.errors import RecipeError
from shrinkc.evidence.data import Data
from shrinkc.log import Silent
from shrinkc.training import refitting
from shrinkc.training.context import Context
from shrinkc.training.executor import Executor
from shrinkc.training.masks import MaskSet
from shrinkc.training.phases import Prune, Remember
from shrinkc.training.refitting import RefitLSQ, fitted, patches, refittable
from shrinkc.training.running import trained
from shrinkc.training.scoring import RandomScore

KINDS: list[dict[str, Any]] = [
    {"shape": (2, 4, 9), "weight": (6, 4, 3), "pads": [1, 1]},
    {"shape": (2, 4, 7, 8), "weight": (6, 4, 3, 2), "pads": [0, 1, 2, 0], "strides": [2, 1]},
    {"shape": (2, 4, 9, 9), "weight": (6, 2, 3, 3), "group": 2, "dilations": [2, 2], "strides": [1, 3]},
    {"shape": (2, 4, 7, 7), "weight": (6, 4, 3, 3), "auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"shape": (2, 2, 5, 4, 5), "weight": (3, 2, 2, 2, 2), "strides": [2, 1, 1]},
]


def random_problem(rows: int = 200, inputs: int = 12, units: int = 6) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    generator = np.random.default_rng(0)
    x = np.maximum(generator.standard_normal((rows, inputs)) @ generator.standard_normal((inputs, inputs)), 0)
    return x, generator.standard_normal((rows, units)) + x[:, :units], torch.from_numpy(generator.random((units, inputs)) > 0.4)


def solved(x: np.ndarray, y: np.ndarray, support: torch.Tensor) -> torch.Tensor:
    old = torch.zeros(support.shape, dtype=torch.float64)
    return fitted(torch.from_numpy(x.T @ x), torch.from_numpy(y.T @ x), old, support)


def test_every_unit_has_the_least_squares_solution_on_its_own_support() -> None:
    x, y, support = random_problem()
    found = solved(x, y, support)
    for unit, kept in enumerate(support.numpy()):
        np.testing.assert_allclose(found[unit, kept], np.linalg.lstsq(x[:, kept], y[:, unit], rcond=None)[0], rtol=1e-5)
        assert not found[unit, ~kept].any()


def test_conjugate_gradients_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, support = random_problem()
    exact = solved(x, y, support)
    monkeypatch.setattr(refitting, "MOST_EXACT", 0)
    torch.testing.assert_close(solved(x, y, support), exact, rtol=1e-5, atol=1e-7)


def test_an_input_that_is_always_zero_leaves_the_others_what_they_are() -> None:
    x, y, support = random_problem()
    x[:, 3] = 0
    found = solved(x, y, support)
    assert torch.isfinite(found).all()
    assert not found[:, 3].any()


@pytest.mark.parametrize("kind", KINDS)
def test_patches_times_weights_are_the_convolution(kind: dict[str, Any], tmp_path: Path) -> None:
    attributes = {name: value for name, value in kind.items() if name not in ("shape", "weight")}
    net = Net()
    x = net.input("x", [str(kind["shape"][0]), *kind["shape"][1:]])
    y = str(net.op("Conv", x, net.weight(*kind["weight"]), **attributes))
    pooled = net.op("Flatten", net.op("GlobalAveragePool", y))
    net.output(net.op("Gemm", pooled, net.weight(3, kind["weight"][0]), transB=1))
    images = np.random.default_rng(0).standard_normal((64, *kind["shape"][1:])).astype(np.float32)
    made = context(
        lesson(loaded(net.model(), tmp_path), Data({"x": images}, np.zeros(64, np.int64), "x")), teacher="none", batch=8
    )
    made.masks = MaskSet.dense(made.weights(made.views))
    layer = next(refittable(made))
    given = torch.from_numpy(images)
    wanted = Executor(made.model).eval()({"x": given}, also=(y,))[y].detach()
    rows = patches(layer, given)
    weights = layer.view.to2d(made.tensors[layer.view.name]).reshape(layer.group, -1, rows.shape[-1])
    made_of = (rows @ weights.mT).movedim(0, 1).reshape(-1, kind["weight"][0])
    torch.testing.assert_close(made_of, wanted.movedim(1, -1).reshape(-1, kind["weight"][0]), rtol=1e-4, atol=1e-4)


def masked(proto: onnx.ModelProto, data: Data, folder: Path, density: float, **given: Any) -> Context:
    """A context whose weights lost a share, the largest ones among it: the loss is felt."""
    made = context(lesson(loaded(proto, folder), data, loaded(proto, folder)), **given)
    Remember("dense").run(made)
    Prune(made.views, RandomScore(made.views), lambda alive, total: round(density * total)).run(made)
    return made


def test_with_every_weight_left_nothing_changes(tmp_path: Path) -> None:
    made = masked(convnet(), pictures(), tmp_path, 1.0)
    before = {name: value.clone() for name, value in made.tensors.items()}
    RefitLSQ("dense").run(made)
    for name, value in made.tensors.items():
        torch.testing.assert_close(value, before[name], rtol=1e-4, atol=1e-5)


def test_what_is_left_gives_more_of_what_the_network_was_and_masks_hold(tmp_path: Path) -> None:
    made = masked(convnet(width=12), pictures(256), tmp_path, 0.6)
    RefitLSQ("dense").run(made)
    record = made.records[-1]
    assert record["is_kept"]
    assert record["after"]["loss"] < 0.5 * record["before"]["loss"]
    assert len(record["errors"]) == 3
    assert all(after < before for before, after in record["errors"].values())
    assert all(not made.tensors[name][~mask].any() for name, mask in made.masks.items())


def test_a_matrix_product_and_its_bias_are_fitted_exactly_where_inputs_repeat(tmp_path: Path) -> None:
    """Two equal inputs: what the mask takes from one the other can carry, and the constant one is the bias's."""
    net = Net()
    x = net.input("x", ["N", 3])
    hidden = net.relu(net.op("Gemm", x, net.const(np.float32([[1, 2, 3], [-1, 1, 2]]), "w"), net.vector(2, "b"), transB=1))
    net.output(net.op("MatMul", hidden, net.weight(2, 4, name="head")))
    shared = np.random.default_rng(0).standard_normal((96, 1)).astype(np.float32)
    data = Data({"x": np.concatenate([shared, shared, np.ones_like(shared)], 1)}, None, "x")
    proto = net.model()
    made = context(lesson(loaded(proto, tmp_path), data, loaded(proto, tmp_path)))
    Remember("dense").run(made)
    made.masks = MaskSet({"w": torch.tensor([[True, False, False], [False, True, False]])})
    made.masks.apply(made.tensors)
    bias = made.tensors["b"].clone()
    RefitLSQ("dense").run(made)
    torch.testing.assert_close(made.tensors["w"], torch.tensor([[3.0, 0, 0], [0, 0, 0]]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.tensors["b"], bias + torch.tensor([3.0, 2.0]), atol=1e-4, rtol=1e-4)


def test_levels_with_a_refit_begin_retraining_closer_to_what_was(tmp_path: Path) -> None:
    def loss(*, refit: bool) -> float:
        made = context(lesson(loaded(convnet(width=12), tmp_path), pictures(256), loaded(convnet(width=12), tmp_path)))
        phases = IterativeMagnitude(levels=1, fraction=0.6, refit=refit).phases(made)
        for phase in phases[:-1]:
            phase.run(made)
        assert made.masks.density() == pytest.approx(0.4, abs=0.01)
        return made.evaluate().loss

    assert loss(refit=True) < 0.5 * loss(refit=False)


def test_a_refit_that_is_interrupted_is_taken_back(tmp_path: Path) -> None:
    made = masked(convnet(width=12), pictures(256), tmp_path, 0.6)
    before = {name: value.clone() for name, value in made.tensors.items()}
    made.interrupts.requested = True
    RefitLSQ("dense").run(made)
    assert made.stopped == "interrupted"
    assert not made.records[-1]["errors"]
    assert all(torch.equal(value, made.tensors[name]) for name, value in before.items())


def test_a_run_killed_in_a_refit_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def result(checkpoint: Path | None) -> Context:
        what = lesson(loaded(convnet(width=12), tmp_path), pictures(96), loaded(convnet(width=12), tmp_path))
        options = {"levels": 2, "fraction": 0.4, "refit": True}
        return trained(
            what, settings(method="iterative-magnitude", options=options, budget="4steps"), Silent(), checkpoint
        ).context

    whole, refit, calls = result(None), refitting._refit, []

    def dying(context: Context, layer: refitting.Layer, how: RefitLSQ) -> list[float]:
        calls.append(layer)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return refit(context, layer, how)

    with monkeypatch.context() as patched:
        patched.setattr(refitting, "_refit", dying)
        with pytest.raises(KeyboardInterrupt):
            result(tmp_path / "run.npz")
    again = result(tmp_path / "run.npz")
    assert again.masks.hash() == whole.masks.hash()
    assert all(torch.equal(value, whole.tensors[name]) for name, value in again.tensors.items())


def test_a_bias_of_one_entry_for_all_units_leaves_a_product_as_it_is(tmp_path: Path) -> None:
    net = Net()
    hidden = net.relu(net.op("Gemm", net.input("x", ["N", 3]), net.weight(4, 3, name="w"), net.vector(1), transB=1))
    net.output(net.op("MatMul", hidden, net.weight(4, 2, name="head")))
    samples = np.random.default_rng(0).standard_normal((96, 3)).astype(np.float32)
    made = masked(net.model(), Data({"x": samples}, None, "x"), tmp_path, 0.5)
    assert [layer.view.name for layer in refittable(made)] == ["head"]


def test_weights_that_are_rewound_are_not_refitted() -> None:
    with pytest.raises(RecipeError, match="would have no effect"):
        IterativeMagnitude(retraining="weights", refit=True)


def test_a_refit_that_makes_the_model_worse_is_taken_back(tmp_path: Path) -> None:
    """The snapshot is another network's: fitting to it can only do harm."""
    samples = np.random.default_rng(1).standard_normal((96, 2)).astype(np.float32)
    made = masked(mlp(), Data({"x": samples}, None, "x"), tmp_path, 0.8)
    made.snapshots["dense"] = {name: -3 * value for name, value in made.snapshots["dense"].items()}
    before = {name: value.clone() for name, value in made.tensors.items()}
    RefitLSQ("dense").run(made)
    assert not made.records[-1]["is_kept"]
    assert all(torch.equal(value, made.tensors[name]) for name, value in before.items())
