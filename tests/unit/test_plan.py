from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models.builder import Net
from models.topologies import TOPOLOGIES

import shrinkc
from shrinkc import blas_threads, pipeline
from shrinkc import plan as plans
from shrinkc.errors import RecipeError
from shrinkc.plan import Keep, Plan, PlannedGroup, TensorSlice

NAMES = st.text(min_size=1, max_size=8)
INDICES = st.lists(st.integers(0, 99), unique=True, min_size=1, max_size=5).map(lambda xs: tuple(sorted(xs)))


@given(
    st.builds(
        Plan,
        NAMES,
        st.lists(st.builds(Keep, NAMES, INDICES), max_size=3).map(tuple),
        st.lists(
            st.builds(
                PlannedGroup,
                NAMES,
                st.integers(1, 99),
                st.integers(1, 99),
                st.lists(st.builds(TensorSlice, NAMES, st.integers(0, 3), INDICES, st.none() | NAMES), max_size=3).map(tuple),
            ),
            max_size=3,
        ).map(tuple),
        st.dictionaries(NAMES, st.integers() | NAMES, max_size=3),
    )
)
def test_a_plan_survives_json(plan: Plan) -> None:
    assert plans.from_json(json.loads(plans.dumps(plan))) == plan


def compressed(path: Path, output: Path, **options: Any) -> bytes:
    shrinkc.compress(path, output=output, measure_latency=False, verify=False, **options)
    return output.read_bytes()


@pytest.mark.parametrize("name", ["projection_shortcut", "shared_bias", "shuffle_units", "weights_in_constant_nodes"])
def test_the_same_recipe_gives_the_same_bytes_and_replay_gives_them_again(
    name: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    path, plan = saved(TOPOLOGIES[name]()), tmp_path / "plan.json"
    first = compressed(path, tmp_path / "a.onnx", prune_ratio=0.5, round_to=1, save_plan=plan)
    text = plan.read_text()
    second = compressed(path, tmp_path / "b.onnx", prune_ratio=0.5, round_to=1, save_plan=plan)
    assert (first, text) == (second, plan.read_text())
    assert compressed(path, tmp_path / "c.onnx", plan=plan) == first


def test_a_replay_takes_as_many_threads_of_blas_as_the_first_run_had(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of every number of threads differ in their last bits, and fitted weights with them."""
    net, seen = Net(), []
    net.head(net.cbr(net.cbr(net.input("x", ["n", 3, 8, 8]), 3, 8), 8, 8), 8)
    net.output(net.nodes[-1].output[0])
    model, plan, samples = saved(net), tmp_path / "plan.json", tmp_path / "samples.npz"
    np.savez(samples, x=np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32))
    options = {"data": samples, "eval_data": samples, "measure_latency": False, "verify": False}
    carried_out = pipeline.built
    monkeypatch.setattr(pipeline, "built", lambda *given: seen.append(blas_threads.number()) or carried_out(*given))
    with blas_threads.limited(3):
        shrinkc.compress(model, output=tmp_path / "a.onnx", macs="70%", save_plan=plan, **options)
    with blas_threads.limited(1):
        shrinkc.compress(model, output=tmp_path / "b.onnx", plan=plan, **options)
        assert blas_threads.number() == 1
    assert (plans.read(plan).blas_threads, seen) == (3, [3, 3])


def edited(plan: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    data = json.loads(plan.read_text())
    edit(data)
    plan.write_text(json.dumps(data))
    return plan


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(format="other/1"), "not a shrinkc plan"),
        (lambda d: d.update(model_sha256="0" * 64), "another model"),
        (lambda d: d["steps"][0].update(keep="ghost"), "group the model lacks"),
        (lambda d: d["steps"][0].update(indices=[]), "impossible positions"),
        (lambda d: d["steps"][0].update(indices=[0, 99]), "impossible positions"),
        (lambda d: d["steps"][0].update(indices=[0, 0]), "impossible positions"),
        (lambda d: d["groups"][0]["slices"][0]["removed"].pop(), "do not belong"),
        (lambda d: d.pop("steps"), "damaged"),
        (lambda d: d["steps"][0].update(indices="abc"), "damaged"),
    ],
)
def test_an_edited_plan_is_refused(
    edit: Callable[[dict[str, Any]], None], message: str, saved: Callable[..., Path], tmp_path: Path
) -> None:
    path, plan = saved(TOPOLOGIES["projection_shortcut"]()), tmp_path / "plan.json"
    shrinkc.compress(path, output=tmp_path / "a.onnx", prune_ratio=0.5, round_to=1, dry_run=True, save_plan=plan)
    with pytest.raises(RecipeError, match=message):
        compressed(path, tmp_path / "b.onnx", plan=edited(plan, edit))
    assert not (tmp_path / "b.onnx").exists()


def test_a_plan_that_unbalances_a_grouped_convolution_is_refused(saved: Callable[..., Path], tmp_path: Path) -> None:
    path, plan = saved(TOPOLOGIES["grouped"]()), tmp_path / "plan.json"
    shrinkc.compress(path, output=tmp_path / "a.onnx", prune_ratio=0.5, round_to=1, dry_run=True, save_plan=plan)

    def unbalance(data: dict[str, Any]) -> None:
        for step, group in zip(data["steps"], data["groups"], strict=True):
            if group["width"] == 16:
                step["indices"] = list(range(8))

    with pytest.raises(RecipeError):
        compressed(path, tmp_path / "b.onnx", plan=edited(plan, unbalance))
