from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from models.builder import Net
from torch.nn import functional as F
from training.lessons import blobs, context, lesson, loaded, mlp, pictures

from shrinkc.errors import RecipeError
from shrinkc.evidence.data import Data
from shrinkc.training.augment import augmented, flipped, mixed, shifted
from shrinkc.training.context import Context
from shrinkc.training.distill import (
    KL,
    Distillation,
    Feature,
    ScaledAbsolutes,
    ScaledSquares,
    classes_of,
    distances_for,
    label_loss,
)
from shrinkc.training.feeding import pooled
from shrinkc.training.objective import Objective
from shrinkc.training.samples import Batch, Order, Samples, held_out
from shrinkc.training.settings import Settings
from shrinkc.training.streams import generator


def logits(seed: int) -> torch.Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_the_temperature_times_the_difference_of_softened_classes(temperature: float) -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    KL(temperature)(student, teacher).backward()
    expected = temperature * (F.softmax(student / temperature, 1) - F.softmax(teacher / temperature, 1)) / 6
    assert student.grad is not None
    torch.testing.assert_close(student.grad, expected.detach())


def test_an_identical_student_has_no_loss_and_no_gradient_and_constants_do_not_matter() -> None:
    teacher = logits(1)
    student = (teacher + 3).clone().requires_grad_()
    loss = KL(4.0)(student, teacher)
    loss.backward()
    assert student.grad is not None
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert float(student.grad.abs().max()) < 1e-6


def test_at_high_temperature_the_gradient_is_that_of_centred_squares() -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    KL(500.0)(student, teacher).backward()
    assert student.grad is not None
    difference = (student - student.mean(1, keepdim=True) - teacher + teacher.mean(1, keepdim=True)).detach() / 5 / 6
    torch.testing.assert_close(student.grad, difference, atol=1e-3, rtol=0)


def test_probabilities_are_compared_as_the_logits_behind_them() -> None:
    student, teacher = logits(0), logits(1)
    found = KL(3.0, has_probabilities=True)(F.softmax(student, 1), F.softmax(teacher, 1))
    torch.testing.assert_close(found, KL(3.0)(student, teacher), rtol=1e-4, atol=1e-5)


def test_other_outputs_are_compared_in_units_of_their_spread() -> None:
    boxes = torch.randn(50, 7, 4) * 100
    names = distances_for(
        {"classes": torch.rand(50, 5), "boxes": boxes, "count": torch.ones(50, dtype=torch.int64)},
        ("classes",), (), "kl", "mse", 4.0,
    )  # fmt: skip
    assert set(names) == {"classes", "boxes"}
    near = boxes + 10 * torch.randn(boxes.shape)
    assert float(names["boxes"](near, boxes)) == pytest.approx(0.01, rel=0.3)
    assert isinstance(names["boxes"], ScaledSquares)


def test_values_inside_are_compared_through_the_channels_that_are_left() -> None:
    value = torch.rand(2, 4, 3, 3)
    kept = Feature("v", kept=(0, 2)).of_teacher(value)
    loss = Distillation({"y": KL(1.0)}, {"v": ScaledSquares(1.0)}, 2.0)
    same = {"y": logits(0)[:2], "v": kept}
    assert torch.equal(kept, value[:, [0, 2]])
    assert float(loss(same, {"y": logits(0)[:2], "v": kept + 1})) == pytest.approx(2.0, rel=1e-5)


def test_smoothing_spreads_its_mass_over_the_other_classes() -> None:
    scores, labels = logits(0), torch.tensor([0, 1, 2, 3, 4, 0])
    target = torch.full((6, 5), 0.1 / 4)
    target[torch.arange(6), labels] = 0.9
    expected = -(target * F.log_softmax(scores, 1)).sum(1).mean()
    torch.testing.assert_close(label_loss(scores, labels, 0.1), expected)


def test_augmentation_depends_on_nothing_but_seed_and_place() -> None:
    images = torch.rand(5, 1, 9, 9)
    first = augmented({"x": images}, ("shift", "flip", "mix"), 2, generator(3, "augment", 0, 7))["x"]
    assert torch.equal(first, augmented({"x": images}, ("shift", "flip", "mix"), 2, generator(3, "augment", 0, 7))["x"])
    assert not torch.equal(first, augmented({"x": images}, ("shift", "flip", "mix"), 2, generator(3, "augment", 0, 8))["x"])
    vector = torch.rand(5, 9)
    assert torch.equal(augmented({"x": vector}, ("shift",), 2, generator(0, "a"))["x"], vector)


def test_shifts_flips_and_mixtures_are_what_they_are_called() -> None:
    images = torch.rand(8, 1, 9, 9)
    moved = shifted(images, 2, generator(0, "a"))
    inner = [
        [
            torch.equal(moved[n, :, 2:7, 2:7], images[n, :, 2 + i : 7 + i, 2 + j : 7 + j])
            for i in range(-2, 3)
            for j in range(-2, 3)
        ]
        for n in range(8)
    ]
    assert all(any(found) for found in inner)
    turned = flipped(images, generator(0, "a"))
    assert all(torch.equal(turned[n], images[n]) or torch.equal(turned[n], images[n].flip(2)) for n in range(8))
    blend = mixed(images, generator(0, "a"))
    assert float(blend.min()) >= float(images.min())
    assert not torch.equal(blend, images)


def test_every_sample_comes_once_an_epoch_and_none_is_both_learned_and_judged_by() -> None:
    order = Order(10, 5, seed=0)
    assert sorted(torch.cat([order.index(step) for step in (0, 1)]).tolist()) == list(range(10))
    assert not torch.equal(order.index(0), order.index(2))
    learned, judged = held_out(100, 0.1, 1, 5)
    assert not set(learned.tolist()) & set(judged.tolist())
    assert len(judged) == 10
    assert held_out(20, 0.1, 1, 5)[1].tolist() == list(range(20))
    assert torch.equal(judged, held_out(100, 0.1, 1, 5)[1])
    assert [int(one) // 10 for one in judged] == list(range(10)), "evenly spread"


@pytest.mark.parametrize("period", [2, 5, 10])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_file_that_goes_round_the_classes_is_judged_by_all_of_them(period: int, batch: int) -> None:
    _, judged = held_out(4000, 0.1, batch, 32)
    counts = torch.bincount(judged // batch % period, minlength=period)
    assert len(judged) == 400
    assert int(counts.min()) > 0.3 * len(judged) / period


def test_a_pool_holds_the_samples_and_their_augmented_copies() -> None:
    samples = Samples.of(pictures(10))
    pool = pooled(samples, Settings(augment=("shift",), pool=35), 35)
    assert len(pool) == 30
    assert torch.equal(pool.inputs["image"][:10], samples.inputs["image"])
    assert not torch.equal(pool.inputs["image"][10:20], samples.inputs["image"])


def test_cached_answers_are_those_the_teacher_gives(tmp_path: Path) -> None:
    made = context(
        lesson(loaded(mlp(seed=1), tmp_path), blobs(64), loaded(mlp(seed=2), tmp_path)), budget="100steps", held_out=0.0
    )
    batch = made.feeder.at(0, 3)
    assert made.feeder.asked is not None
    assert made.feeder.teacher is not None
    asked = made.feeder.teacher.targets(batch.inputs)
    np.testing.assert_allclose(batch.targets["gemm2"], asked["gemm2"], atol=1e-5)


def ended_in(op: str) -> tuple[onnx.ModelProto, dict[str, torch.Tensor]]:
    """A network whose last node is of a kind, and what its output ``y`` looks like, beside others."""
    net = Net()
    net.op("Gemm", net.input("x", ["N", 2]), net.weight(4, 2, name="w"), transB=1)
    if op != "Gemm":
        net.op(op, net.nodes[-1].output[0])
    net.nodes[-1].output[0] = "y"
    net.output("y")
    return net.model(), {"y": torch.rand(5, 4), "boxes": torch.rand(5, 7, 4), "count": torch.ones(5, 3, dtype=torch.int64)}


@pytest.mark.parametrize(
    ("op", "chosen", "expected"),
    [
        ("Gemm", "auto", ("y",)),
        ("Softmax", "auto", ("y",)),
        ("Sigmoid", "auto", ()),
        ("LpNormalization", "auto", ()),
        ("Sigmoid", "y", ("y",)),
        ("Gemm", "none", ()),
    ],
)
def test_outputs_hold_classes_by_what_makes_them_unless_somebody_says(op: str, chosen: str, expected: tuple[str, ...]) -> None:
    proto, outputs = ended_in(op)
    assert classes_of(ir.serde.deserialize_model(proto), outputs, chosen) == expected


@pytest.mark.parametrize("chosen", ["z", "boxes", "y, count"])
def test_an_output_that_cannot_hold_classes_is_refused_by_name(chosen: str) -> None:
    proto, outputs = ended_in("Gemm")
    with pytest.raises(RecipeError, match=chosen.split(", ")[-1]):
        classes_of(ir.serde.deserialize_model(proto), outputs, chosen)


def test_an_output_without_classes_is_held_to_its_values(tmp_path: Path) -> None:
    """Softmax knows no constant added to all; squares do."""
    what = lesson(loaded(mlp(seed=1), tmp_path), blobs(), loaded(mlp(seed=1), tmp_path))
    for classes, is_seen in (("auto", False), ("none", True)):
        made = context(replace(what, data=Data(blobs().inputs, None, "x")), classes=classes)
        made.tensors["b2"] += 3.0
        found = made.evaluate()
        assert (found.loss > 0.1) is is_seen
        assert (found.agreement is None) is is_seen


@pytest.mark.parametrize("chain", [["Sigmoid", "Identity"], ["Sigmoid", "Flatten"], ["divided"]])
def test_what_makes_an_output_is_looked_for_behind_what_leaves_it_as_it_was(chain: list[str]) -> None:
    net = Net()
    x = str(net.op("Gemm", net.input("x", ["N", 2]), net.weight(4, 2, name="w"), transB=1))
    for op in chain:
        length = net.op("ReduceL2", x, axes=[1], keepdims=1) if op == "divided" else ""
        x = str(net.op("Div", x, net.op("Clip", length, net.const(np.float32(1e-12)))) if length else net.op(op, x))
    net.output(x)
    assert classes_of(ir.serde.deserialize_model(net.model()), {x: torch.rand(5, 4)}, "auto") == ()


def heads(tmp_path: Path, **given: object) -> Context:
    """A network with scores of five classes and of ten, and labels of ten of which the first samples have five."""
    net = Net()
    x = net.input("x", ["N", 2])
    for name, classes in (("five", 5), ("ten", 10)):
        net.output(str(net.op("Gemm", x, net.weight(classes, 2, name=name), transB=1)))
    data = Data(blobs(128).inputs, np.sort(np.arange(128) % 10), "x")
    return context(lesson(loaded(net.model(), tmp_path), data), teacher="none", **given)


def test_labels_are_of_one_output_whatever_a_batch_holds(tmp_path: Path) -> None:
    made = heads(tmp_path, batch=8)
    few = made.feeder.samples.take(torch.arange(8))
    assert few.labels is not None
    assert int(few.labels.max()) < 5
    batch = Batch(few.inputs, torch.arange(8), few.labels, {})
    made.objective(made.executor(few.inputs), batch).backward()
    assert made.executor.trainable()["five"].grad is None
    assert made.executor.trainable()["ten"].grad is not None


def test_labels_that_fit_no_output_say_which_could_hold_classes(tmp_path: Path) -> None:
    proto, _ = ended_in("Sigmoid")
    with pytest.raises(RecipeError, match="fit no output") as raised:
        context(lesson(loaded(proto, tmp_path), blobs()), teacher="none")
    assert 'classes = "y"' in raised.value.hint
    context(lesson(loaded(proto, tmp_path), blobs()), teacher="none", classes="y")


def test_absolute_differences_are_in_units_of_the_mean_deviation() -> None:
    boxes = torch.randn(2000, 3) * torch.tensor([1.0, 10.0, 100.0]) + 50
    (distance,) = distances_for({"boxes": boxes}, (), (), "kl", "l1", 4.0).values()
    assert isinstance(distance, ScaledAbsolutes)
    expected = float((boxes - boxes.mean(0)).abs().mean())
    assert float(distance(boxes + 7, boxes)) == pytest.approx(7 / expected, rel=1e-4)
    assert distance.scale == pytest.approx(111 * np.sqrt(2 / np.pi) / 3, rel=0.05)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_labels_are_mixed_into_the_loss_by_their_share(share: float) -> None:
    student, teacher, labels = logits(0), logits(1), torch.arange(6) % 5
    objective = Objective(Distillation({"y": KL(2.0)}, {}), share, 0.0, ("y",), "y")
    batch = Batch({}, torch.arange(6), labels, {"y": teacher})
    expected = (1 - share) * KL(2.0)(student, teacher) + share * F.cross_entropy(student, labels)
    torch.testing.assert_close(objective({"y": student}, batch), expected)
    torch.testing.assert_close(objective({"y": student}, replace(batch, labels=None)), KL(2.0)(student, teacher))
