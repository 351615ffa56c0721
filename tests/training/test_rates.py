"""Learning rates that the settings ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from training.lessons import blobs, context, convnet, in_constants, lesson, loaded, mlp, pictures

from shrinkc.errors import RecipeError
from shrinkc.ir import stored_array
from shrinkc.training.context import Context
from shrinkc.training.rates import schedule_of
from shrinkc.training.settings import Settings, check


def removed(tmp_path: Path, **given: Any) -> Context:
    """A context whose student is a smaller network than its teacher."""
    what = lesson(loaded(mlp(width=8, seed=2), tmp_path), blobs(), loaded(mlp(width=16, seed=1), tmp_path))
    return context(what, **{"learning_rate": 0.1, "warm_up": 0.0, **given})


def test_recovery_follows_a_published_schedule_of_retraining(tmp_path: Path) -> None:
    def values(name: str, **given: Any) -> list[float]:
        made = removed(tmp_path, schedule=name, budget="10steps", **given)
        return [schedule_of(made.settings, made).value(step, 10) for step in range(10)]

    assert values("ft") == pytest.approx([1e-4] * 10, rel=0.01)
    assert values("llr") == pytest.approx([0.1 * (1 - step / 10) for step in range(10)])
    assert values("clr") == pytest.approx(values("cosine"), abs=2e-4)
    assert values("slr")[5] == pytest.approx(0.05, rel=0.01)  # half of the way is half a cosine
    assert max(values("lrw", original="40steps")) < 0.02
    assert values("lrw", original="40steps") == sorted(values("lrw", original="40steps"), reverse=True)


def test_the_adaptive_schedule_begins_as_high_as_the_removal_took_the_weights(tmp_path: Path) -> None:
    made = removed(tmp_path, schedule="allr", budget="10steps", original="1000steps")
    assert made.teacher is not None
    squares = [
        sum(float((stored_array(value).astype(np.float64) ** 2).sum()) for value in model.graph.initializers.values())
        for model in (made.teacher, made.model)
    ]
    counts = [
        sum(value.const_value.size for value in model.graph.initializers.values()) for model in (made.teacher, made.model)
    ]
    expected = np.sqrt(abs(squares[0] - squares[1]) / squares[0] / (1 - counts[1] / counts[0]))
    assert 0.1 < expected < 0.99
    assert schedule_of(made.settings, made).value(0, 10) == pytest.approx(0.1 * expected, rel=1e-5)


def test_the_distance_is_over_what_is_learned_wherever_it_is_stored(tmp_path: Path) -> None:
    """Statistics and constants are no weights, however large; weights may stand in nodes."""
    teacher, student = convnet(1, width=16), convnet(2, width=8)
    plain = distance_between(teacher, student, tmp_path)
    for proto in (teacher, student):
        for tensor in proto.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if tensor.name in {node.input[4] for node in proto.graph.node if node.op_type == "BatchNormalization"}:
                tensor.CopyFrom(numpy_helper.from_array(array + 1e6, tensor.name))
    assert 0.05 < plain < 1
    assert distance_between(teacher, student, tmp_path) == pytest.approx(plain)
    assert distance_between(in_constants(teacher), student, tmp_path) == pytest.approx(plain)


def distance_between(teacher: onnx.ModelProto, student: onnx.ModelProto, tmp_path: Path) -> float:
    made = context(
        lesson(loaded(student, tmp_path), pictures(), loaded(teacher, tmp_path)),
        schedule="allr", budget="10steps", original="10000steps", learning_rate=1.0, warm_up=0.0,
    )  # fmt: skip
    return schedule_of(made.settings, made).value(0, 10)


@pytest.mark.parametrize(
    "given",
    [
        {"schedule": "lrw", "budget": "3min"},
        {"schedule": "allr", "original": "9steps", "budget": "3min"},
        {"schedule": "allr", "original": "9min"},
        {"schedule": "lrw", "original": "for long"},
    ],
)
def test_a_schedule_that_counts_steps_refuses_what_it_cannot_count_before_anything_is_done(given: dict[str, str]) -> None:
    with pytest.raises(RecipeError, match=r"counts steps|not an amount"):
        check(Settings(**given))


def test_the_adaptive_schedule_wants_to_know_how_long_the_original_was_trained() -> None:
    with pytest.raises(RecipeError, match="original"):
        check(Settings(schedule="allr"))
