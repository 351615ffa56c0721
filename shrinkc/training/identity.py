"""What tells one training run from another: a few facts that processes compare, and a hash of everything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import chain

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.training.lesson import Lesson
from shrinkc.training.lifting import lift_weights
from shrinkc.training.settings import Settings


def outline(lesson: Lesson, settings: Settings) -> str:
    """What all processes must have alike: settings, and the names and shapes of weights and samples.

    Values are not compared: machines that cut a model each for itself may differ in the last bits; the first one's are used.
    """
    tensors = {name: str(value.shape) for name, value in lesson.student.graph.initializers.items()}
    samples = {name: [str(array.dtype), *array.shape] for name, array in lesson.data.inputs.items()}
    return json.dumps([settings.to_json(), sorted(tensors.items()), sorted(samples.items())], sort_keys=True)


def fingerprint(lesson: Lesson, settings: Settings) -> str:
    """Hash of everything that the result depends on."""
    models = [model for model in (lesson.given or lesson.student, lesson.teacher) if model is not None]
    labels = {} if lesson.data.labels is None else {"labels": lesson.data.labels}
    parts = chain(
        [json.dumps(settings.to_json(), sort_keys=True).encode()],
        *(_of_model(model) for model in models),
        _of_arrays({**lesson.data.inputs, **labels}),
    )
    digest = hashlib.blake2b()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _of_model(model: ir.Model) -> Iterator[bytes]:
    """All that a model computes, and with what."""
    lift_weights(copy := model.clone())  # what stands in nodes counts as well
    yield repr([value.name for value in (*copy.graph.inputs, *copy.graph.outputs)]).encode()
    for node in copy.graph:
        yield ir.serde.serialize_node(node).SerializeToString(deterministic=True)
    for function in copy.functions.values():
        yield ir.serde.serialize_function(function).SerializeToString(deterministic=True)
    yield from _of_arrays({name: shrinkc_ir.stored_array(value) for name, value in copy.graph.initializers.items()})


def _of_arrays(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    for name, array in sorted(arrays.items()):
        yield name.encode()
        yield np.ascontiguousarray(array).tobytes()
