"""What training computes in: bfloat16 where it is worth it, float32 for all that stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from training.lessons import blobs, context, convnet, lesson, loaded, mlp, pictures, settings

from shrinkc.log import Silent
from shrinkc.training import autocasting, distributed
from shrinkc.training.context import Context
from shrinkc.training.executor import Executor
from shrinkc.training.running import trained


@pytest.fixture
def has_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autocasting, "computes_in_bfloat16", lambda device: True)


def far_apart(tmp_path: Path, **given: Any) -> Context:
    """A student that has much to learn."""
    student, teacher = loaded(convnet(seed=1), tmp_path), loaded(convnet(seed=2), tmp_path)
    return context(lesson(student, pictures(), teacher), **given)


def test_training_in_bfloat16_learns_as_much_and_keeps_weights_in_float32(tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        what = lesson(loaded(mlp(seed=1), tmp_path), blobs(256))
        done = trained(what, settings(teacher="none", budget="60steps", precision=precision), Silent())
        losses[precision] = done.after.loss
        assert {tensor.dtype for tensor in done.context.tensors.values()} == {torch.float32}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bfloat16"] != losses["float32"]


def test_what_decides_which_model_is_best_is_computed_in_float32(tmp_path: Path) -> None:
    by_precision = [far_apart(tmp_path, precision=precision).evaluate().loss for precision in ("float32", "bfloat16")]
    assert by_precision[0] == by_precision[1]


@pytest.mark.usefixtures("has_bfloat16")
def test_auto_takes_bfloat16_where_the_loss_hardly_changes(tmp_path: Path) -> None:
    assert far_apart(tmp_path, precision="auto").settings.precision == "bfloat16"


@pytest.mark.usefixtures("has_bfloat16")
def test_auto_takes_float32_where_rounding_is_all_there_is_to_learn(tmp_path: Path) -> None:
    student, teacher = loaded(convnet(seed=1), tmp_path), loaded(convnet(seed=1), tmp_path)
    assert context(lesson(student, pictures(), teacher), precision="auto").settings.precision == "float32"


def test_auto_takes_float32_on_a_device_without_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autocasting, "computes_in_bfloat16", lambda device: False)
    assert far_apart(tmp_path, precision="auto").settings.precision == "float32"


@pytest.mark.usefixtures("has_bfloat16")
def test_auto_takes_float32_where_an_operator_has_no_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Executor.forward

    def without_kernel(self: Executor, *inputs: Any, **options: Any) -> dict[str, torch.Tensor]:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("not implemented for 'BFloat16'")
        return forward(self, *inputs, **options)

    monkeypatch.setattr(Executor, "forward", without_kernel)
    assert far_apart(tmp_path, precision="auto").settings.precision == "float32"


def test_probing_leaves_weights_statistics_and_gradients_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autocasting, "computes_in_bfloat16", lambda device: True)
    probed, plain = far_apart(tmp_path, precision="auto"), far_apart(tmp_path)
    assert all(torch.equal(probed.tensors[name], plain.tensors[name]) for name in plain.tensors)
    assert all(parameter.grad is None for parameter in probed.executor.parameters())


def test_moments_over_processes_are_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_summed", lambda tensor: tensor)
    x = (300 + torch.randn(64, 3, 9, 9, generator=torch.Generator().manual_seed(0))).to(torch.bfloat16)
    held = [torch.zeros(3), torch.ones(3)]
    expected = [tensor.clone() for tensor in held]
    found = distributed.batch_norm(x, *held, torch.ones(3), torch.zeros(3), 0.1, 1e-5)
    by_torch = F.batch_norm(x.float(), *expected, torch.ones(3), torch.zeros(3), training=True)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), by_torch, atol=0.02, rtol=0.01)
    for own, other in zip(held, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
