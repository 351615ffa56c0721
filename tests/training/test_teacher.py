"""The teacher is asked as little as possible."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from shrinkc.training.samples import Order, Samples, Tensors
from shrinkc.training.teacher import Asked, Teacher

N, BATCH = 20, 6


class Recorder:
    """Squares, and remembers which samples it saw."""

    def __init__(self) -> None:
        self.seen: Counter[int] = Counter()

    def __call__(self, inputs: Tensors) -> Tensors:
        self.seen.update(inputs["x"][:, 0].int().tolist())
        # As in an engine, the last bit depends on the company a sample is in.
        return {"y": inputs["x"] ** 2 + 1e-6 * inputs["x"].sum()}


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def asked(recorder: Recorder, order: Order) -> Asked:
    samples = Samples({"x": torch.arange(N, dtype=torch.float32)[:, None]}, None)
    return Asked(Teacher(recorder), samples, order.epoch(0), order.size)


def test_a_sample_is_asked_about_when_it_is_first_wanted_and_never_again(recorder: Recorder) -> None:
    order = Order(N, BATCH, seed=0)
    answers = asked(recorder, order)
    answers.at(order.index(0))
    assert sorted(recorder.seen) == sorted(order.index(0).tolist())
    for step in range(1, 12):
        found = answers.at(order.index(step))["y"]
        torch.testing.assert_close(found[:, 0], order.index(step).float() ** 2, atol=1e-3, rtol=0)
    assert recorder.seen == Counter(range(N))


def test_a_run_taken_up_in_a_later_epoch_is_told_the_same_bit_by_bit(recorder: Recorder) -> None:
    order = Order(N, BATCH, seed=0)
    whole, resumed = asked(recorder, order), asked(Recorder(), order)
    for step in range(7):
        whole.at(order.index(step))
    assert torch.equal(whole.at(order.index(7))["y"], resumed.at(order.index(7))["y"])
