"""Random networks under random recipes: what masks promise holds after every step, and the file computes what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from models.builder import Net
from training.lessons import blobs, context, lesson, loaded, pictures

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc.training.budget import Budget
from shrinkc.training.context import Context
from shrinkc.training.executor import Executor
from shrinkc.training.interfaces import Phase, Plugin, Signal
from shrinkc.training.masks import MaskSet
from shrinkc.training.optimizers import Optimizer
from shrinkc.training.phases import Open, Prune, Reestimate, Remember, Rewind, Train, carry_out
from shrinkc.training.refitting import RefitLSQ
from shrinkc.training.running import method_of
from shrinkc.training.schedules import Cosine
from shrinkc.training.scoring import Lamp, Magnitude, RandomScore
from shrinkc.training.select import Global, NOfM, PerLayer, PerUnit, kept_of
from shrinkc.training.views import prunable

RECIPES = range(8)


def random_network(seed: int) -> onnx.ModelProto:
    """Four blocks, each one of a plain, depthwise, grouped, residual or concatenating one, then logits of three classes."""
    choose, net = np.random.default_rng(seed), Net(seed=seed)
    width = int(choose.choice([8, 12]))
    x = net.relu(net.bn(net.conv(net.input("image", ["N", 1, 8, 8]), 1, width, bias=False), width))
    for kind in choose.choice(["plain", "depthwise", "grouped", "residual", "concat"], 4):
        if kind == "residual":
            x = net.relu(net.op("Add", x, net.bn(net.conv(x, width, width, bias=False), width)))
        elif kind == "concat":
            both = net.op("Concat", net.cbr(x, width, width // 2), net.cbr(x, width, width // 2, 1), axis=1)
            x = str(both)
        else:
            group = {"plain": 1, "depthwise": width, "grouped": 2}[str(kind)]
            x = net.relu(net.bn(net.conv(x, width, width, group=group), width))
    net.output(net.head(x, width, 3))
    return net.model()


class Watch(Plugin):
    """After every step: nothing behind a mask, in weights or in what the optimizer remembers; everything finite."""

    def __init__(self) -> None:
        self.steps = 0

    def after_step(self, context: Context) -> Signal:
        for name, mask in context.masks.items():
            assert not context.tensors[name][~mask].any()
        assert all(bool(torch.isfinite(tensor).all()) for tensor in context.tensors.values())
        self.steps += 1
        return Signal.GO_ON


class WatchedOptimizer(Optimizer):
    """Says after every masking whether momentum is left behind the masks."""

    looked: int = 0

    def mask(self, masks: MaskSet) -> None:
        super().mask(masks)
        for key, value in self.state().items():
            name = key.rsplit("/", 1)[0]
            if name in masks and value.shape == masks[name].shape:
                assert not value[~masks[name]].any()
                type(self).looked += 1


def random_phases(made: Context, choose: np.random.Generator, watch: Watch) -> list[Phase]:
    """Train, then three times: something happens to the masks, and training goes on."""
    views = prunable(made.views)

    def train() -> Train:
        return Train(Budget(3, "steps"), Cosine(0.05), [watch], keeps_best=bool(choose.integers(2)))

    phases: list[Phase] = [Remember("start"), train()]
    for _ in range(3):
        scorer = [Magnitude(views), Lamp(views), RandomScore(views)][choose.integers(3)]
        selector = [None, Global(), PerLayer(), PerUnit(tuple(views)), NOfM(tuple(views))][choose.integers(5)]
        share = float(choose.uniform(0.4, 0.9))
        prune = Prune(views, scorer, lambda alive, total, share=share: kept_of(alive, share), selector)  # type: ignore[misc]
        after = [Rewind("start"), RefitLSQ("start", 32), Reestimate(64), Open(views[1:2])][choose.integers(4)]
        phases += [prune, after, train()]
    return phases


@pytest.mark.parametrize("seed", RECIPES)
def test_masks_hold_through_every_step_of_a_random_recipe_and_the_file_computes_the_same(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose, proto = np.random.default_rng(seed), random_network(seed)
    monkeypatch.setattr("shrinkc.training.trainer.Optimizer", WatchedOptimizer)
    given: dict[str, Any] = {"optimizer": ["sgd", "adamw"][choose.integers(2)], "batch_norm": ["frozen", "batch"][seed % 2]}
    made = context(lesson(loaded(proto, tmp_path), pictures(96, seed), loaded(proto, tmp_path, "t.onnx")), clip=5.0, **given)
    watch, WatchedOptimizer.looked = Watch(), 0
    for phase in random_phases(made, choose, watch):
        before = made.masks
        phase.run(made)
        if isinstance(phase, Prune):
            _check_pruned(phase, before, made)
        elif not isinstance(phase, Open):
            assert made.masks is before
    assert watch.steps == 12
    assert WatchedOptimizer.looked > 0
    _check_written(made, tmp_path)


def _check_pruned(phase: Prune, before: MaskSet, made: Context) -> None:
    """Nested, and exactly as many as were asked for where it is weights that are counted."""
    whole = before or MaskSet.dense(made.weights(phase.views))
    assert made.masks.nested_in(whole)
    assert made.masks.alive < whole.alive or isinstance(phase.selector, PerLayer | PerUnit | NOfM)
    if phase.selector is None or isinstance(phase.selector, Global):
        assert made.masks.alive == phase.kept(whole.alive, whole.total)
    density = phase.kept(whole.alive, whole.total) / whole.total
    for name, mask in made.masks.items():
        if isinstance(phase.selector, PerLayer):
            assert int(mask.sum()) == min(int(whole[name].sum()), kept_of(mask.numel(), density))
        if isinstance(phase.selector, NOfM) and not before:
            view = next(view for view in phase.views if view.name == name)
            columns = view.to2d(mask).shape[1]
            assert int(view.to2d(mask).sum()) == len(view.to2d(mask)) * (columns // 4 * 2 + columns % 4)
    if isinstance(phase.selector, PerUnit) and not before:
        units = [view.to2d(made.masks[view.name]).any(1) for view in phase.views]
        n_units = sum(len(one) for one in units)
        assert sum(int(one.sum()) for one in units) == kept_of(n_units, density)


@torch.no_grad()
def _check_written(made: Context, folder: Path) -> None:
    images = torch.from_numpy(pictures(16, 99).inputs["image"])
    wanted = made.run({"image": images})
    path = folder / "written.onnx"
    shrinkc_ir.save(made.executor.write_back(), path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for name, found in zip([o.name for o in session.get_outputs()], session.run(None, {"image": images.numpy()}), strict=True):
        scale = float(wanted[name].abs().max())
        np.testing.assert_allclose(found, wanted[name].numpy(), rtol=1e-5, atol=1e-5 * scale)
    masked = {name: shrinkc_ir.stored_array(made.model.graph.initializers[name]) for name in made.masks}
    assert all(not array[~made.masks[name].numpy()].any() for name, array in masked.items())


def test_units_that_a_mask_left_empty_are_removed_and_nothing_else_changes(tmp_path: Path) -> None:
    """Masked network in torch, file in onnxruntime, and the file without its dead units: all the same."""
    net = Net()
    x = net.relu(net.conv(net.input("image", ["N", 1, 8, 8]), 1, 16, bias=False))
    net.output(net.head(net.relu(net.conv(x, 16, 8)), 8, 3))
    made = context(lesson(loaded(net.model(), tmp_path), pictures(), loaded(net.model(), tmp_path)))
    views = tuple(made.views[:1])
    Prune(views, Magnitude(views), lambda alive, total: total // 2, PerUnit(views)).run(made)
    Train(Budget(3, "steps"), Cosine(0.05), keeps_best=False).run(made)
    images = pictures(16, 9).inputs["image"]
    wanted = next(iter(made.run({"image": torch.from_numpy(images)}).values())).detach().numpy()
    shrinkc_ir.save(made.executor.write_back(), tmp_path / "masked.onnx")
    shrinkc.compress(
        tmp_path / "masked.onnx", output=tmp_path / "out.onnx", criterion="l1", allocator="uniform", prune_ratio=0.5,
        compensation="none", round_to=1, measure_latency=False, include=[made.views[0].name],
    )  # fmt: skip
    assert shrinkc.inspect(tmp_path / "out.onnx").cost.parameters < shrinkc.inspect(tmp_path / "masked.onnx").cost.parameters
    for name in ("masked.onnx", "out.onnx"):
        found = onnxruntime.InferenceSession(str(tmp_path / name)).run(None, {"image": images})[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def perceptron(folder: Path) -> Any:
    """2-16-16-2."""
    net, x = Net(seed=3), "x"
    net.input(x, ["N", 2])
    for number, (inputs, outputs) in enumerate([(2, 16), (16, 16), (16, 2)]):
        bias = net.const(np.zeros(outputs, np.float32))
        x = str(net.op("Gemm", x, net.weight(outputs, inputs, name=f"w{number}"), bias, transB=1))
        x = net.relu(x) if number < 2 else x
    net.output(x)
    return loaded(net.model(), folder)


SPARSE: Mapping[str, tuple[str, Mapping[str, object], str]] = {
    "tickets": (
        "iterative-magnitude",
        {"levels": 10, "fraction": 0.206, "retraining": "weights", "rewind_step": 10},
        "100steps",
    ),
    "learning rates": ("iterative-magnitude", {"levels": 10, "fraction": 0.206, "retraining": "lrw"}, "40steps"),
    "gradual": ("gradual-magnitude", {"sparsity": 0.9, "every": 10}, "500steps"),
}


@pytest.mark.parametrize("name", SPARSE)
def test_a_tenth_of_the_weights_learns_what_all_of_them_do(name: str, tmp_path: Path) -> None:
    data, test = blobs(512), blobs(512, 7)
    given: dict[str, Any] = {"teacher": "none", "batch": 32, "learning_rate": 0.1}

    def accuracy(made: Context) -> float:
        found = Executor(made.executor.write_back()).eval()({"x": torch.from_numpy(test.inputs["x"])})
        return float((next(iter(found.values())).argmax(1).numpy() == test.labels).mean())

    dense = context(lesson(perceptron(tmp_path), data), budget="300steps", **given)
    Train(Budget(300, "steps"), Cosine(0.1)).run(dense)
    method, options, budget = SPARSE[name]
    made = context(lesson(perceptron(tmp_path), data), budget=budget, **given)
    if options.get("retraining") == "lrw":  # it starts from a network that was trained
        Train(Budget(300, "steps"), Cosine(0.1)).run(made)
    found: Any = method_of(method, options)
    carry_out(found.phases(made), made)
    assert made.masks.density() == pytest.approx(0.1, abs=0.01)
    assert accuracy(dense) > 0.95
    assert accuracy(made) >= 0.95 * accuracy(dense)
