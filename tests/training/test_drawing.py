"""Operators that draw random numbers in training: by seed and place, whatever else draws, and alike in every process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from models.builder import Net
from training.lessons import dropping, killed_at, lesson, loaded, pictures, settings

from shrinkc.log import Silent
from shrinkc.training.executor import Executor
from shrinkc.training.ops.call import Mode
from shrinkc.training.running import trained


def run(tmp_path: Path, seed: int = 0, checkpoint: Path | None = None) -> dict[str, torch.Tensor]:
    what = lesson(loaded(dropping(1), tmp_path), pictures(), loaded(dropping(2), tmp_path))
    made = trained(what, settings(budget="6steps", batch_norm="batch", seed=seed), Silent(), checkpoint)
    assert made.error is None
    return {name: tensor.clone() for name, tensor in made.context.tensors.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


def test_what_else_draws_changes_nothing_and_nothing_else_is_changed(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first, after = run(tmp_path), torch.rand(3)
    torch.manual_seed(2)
    assert same(first, run(tmp_path))
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(3)), "training drew from the generator of its caller"
    assert not same(first, run(tmp_path, seed=5))


@pytest.mark.parametrize("step", [1, 4])
def test_a_killed_run_draws_as_the_whole_one_did(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path)
    with killed_at(step, monkeypatch):
        run(tmp_path, checkpoint=tmp_path / "c.npz")
    torch.rand(7)
    assert same(whole, run(tmp_path, checkpoint=tmp_path / "c.npz"))


def test_processes_draw_their_rows_of_one_draw_for_all(tmp_path: Path) -> None:
    x, parts = torch.rand(10, 1, 8, 8), []
    for rows in (range(10), range(5), range(5, 10)):
        executor = Executor(loaded(dropping(0), tmp_path)).train()
        executor.draw_for(rows, 10)
        torch.manual_seed(0)
        parts.append(next(iter(executor({"image": x[rows.start : rows.stop]}).values())).detach())
    torch.testing.assert_close(torch.cat(parts[1:]), parts[0])
    assert not torch.allclose(parts[0], next(iter(executor.eval()({"image": x}).values())))


def test_what_has_no_row_for_every_sample_is_drawn_alike() -> None:
    mode, like = Mode(rows=range(2, 4), total=6), torch.zeros(3, 5)
    torch.manual_seed(0)
    found = mode.drawn(like, lambda empty: empty.uniform_())
    torch.manual_seed(0)
    assert torch.equal(found, torch.empty(3, 5).uniform_())


def test_dropout_keeps_as_many_as_it_says_and_the_mean(tmp_path: Path) -> None:
    net = Net()
    net.output(str(net.op("Dropout", net.input("x", ["N", 1000]), net.const(np.float32(0.3)))))
    executor = Executor(loaded(net.model(), tmp_path)).train()
    torch.manual_seed(0)
    found = next(iter(executor({"x": torch.ones(50, 1000)}).values()))
    assert float((found == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert found.unique().tolist() == pytest.approx([0.0, 1 / 0.7])


def test_dropout_of_everything_leaves_nothing(tmp_path: Path) -> None:
    net = Net()
    net.output(str(net.op("Dropout", net.input("x", ["N", 10]), net.const(np.float32(1.0)))))
    executor = Executor(loaded(net.model(), tmp_path)).train()
    assert not next(iter(executor({"x": torch.ones(5, 10)}).values())).any()
