"""Every model of onnx's own backend test suite: nothing is lost on a round trip, and nothing but an error of ours escapes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import Message
from models.sandwich import Sandwich

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc.errors import ShrinkcError, VerificationError

SILENT_IN_ZEROED_FORM = {"test_div", "test_log", "test_reciprocal"}
"""Zeroed, a divisor or the argument of a logarithm makes infinity: the removal is right, and this proof cannot show it."""


@dataclass(frozen=True)
class Case:
    """A model of the suite, with the suite's own inputs and outputs where it brings them as arrays."""

    name: str
    model: onnx.ModelProto
    inputs: Sequence[object] = ()
    outputs: Sequence[object] = ()


@cache
def cases() -> tuple[Case, ...]:
    """Every model that onnx's checker accepts."""
    from onnx.backend.test import loader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite divides by zero on purpose
        found = list(_node_cases(loader.load_model_tests(kind="node")))
    for kind in ("simple", "pytorch-operator", "pytorch-converted", "light"):
        for file in sorted((Path(loader.DATA_DIR) / kind).rglob("*.onnx")):
            found.append(Case(f"{kind}/{file.parent.name}/{file.stem}", onnx.load(str(file))))
    return tuple(case for case in found if _is_valid(case.model))


def _node_cases(suite: Sequence[object]) -> Iterator[Case]:
    for case in suite:
        if case.model is None:  # older releases keep them as files
            yield Case(case.name, onnx.load(str(Path(case.model_dir) / "model.onnx")))
        else:
            inputs, outputs = case.data_sets[0] if case.data_sets else ((), ())
            yield Case(case.name, case.model, inputs, outputs)


def _is_valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True


def written(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def differences(a: Message, b: Message, where: str = "") -> list[str]:
    """Fields in which two messages differ; of lists, the order counts.  A field set to nothing is as good as none."""
    if a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True):
        return []
    found = []
    for name in {field.name for field, _ in (*a.ListFields(), *b.ListFields())}:
        left, right, here = getattr(a, name), getattr(b, name), f"{where}.{name}"
        if isinstance(left, Message):
            found += differences(left, right, here)
        elif isinstance(left, str | bytes | int | float):
            if np.asarray(left).tobytes() != np.asarray(right).tobytes():
                found.append(f"{here}: {left!r:.60} became {right!r:.60}")
        elif len(left) != len(right):
            found.append(f"{here}: {len(left)} became {len(right)} entries")
        elif len(left) and isinstance(left[0], Message):
            found += [line for pair in zip(left, right, strict=True) for line in differences(*pair, here)]
        elif not np.array_equal(left, right, equal_nan=isinstance(left[0], float)):
            found.append(f"{here}: {list(left)!r:.60} became {list(right)!r:.60}")
    return found


def round_trip(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    shrinkc_ir.save(shrinkc_ir.load(written(model, folder / "in.onnx")), folder / "out.onnx")
    return onnx.load(str(folder / "out.onnx"))


def test_a_round_trip_changes_no_field_of_any_model(tmp_path: Path) -> None:
    assert len(cases()) > 1600
    lost = {case.name: found for case in cases() if (found := differences(case.model, round_trip(case.model, tmp_path)))}
    assert not lost


def test_a_changed_field_would_be_seen() -> None:
    model = next(case.model for case in cases() if case.name == "test_relu")
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.graph.node[0].input[0] = "other"
    assert differences(model, other) == [".graph.node.input: ['x'] became ['other']"]


def test_outputs_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    compared = 0
    for case in cases()[::12]:
        before = outputs_of(case.model, case.inputs)
        if before is not None:
            after = outputs_of(round_trip(case.model, tmp_path), case.inputs)
            assert after is not None
            assert [np.asarray(a).tobytes() for a in before] == [np.asarray(a).tobytes() for a in after], case.name
            compared += 1
    assert compared > 80


def outputs_of(model: onnx.ModelProto, inputs: Sequence[object]) -> list[np.ndarray] | None:
    """What onnxruntime makes of the suite's inputs; None where it refuses the model or the inputs are no arrays."""
    if not inputs or not all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for array in inputs):
        return None
    feed = {value.name: array for value, array in zip(model.graph.input, inputs, strict=False)}
    try:
        outputs: list[np.ndarray] = quiet_session(model).run(None, feed)
    except Exception:
        return None
    return outputs if all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for array in outputs) else None


def quiet_session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def compressed(model: onnx.ModelProto, folder: Path) -> ShrinkcError | None:
    """None if the model was compressed, else the error of ours; anything else escapes."""
    try:
        shrinkc.compress(
            written(model, folder / "in.onnx"), output=folder / "out.onnx", prune_ratio=0.5, round_to=1, measure_latency=False
        )
    except ShrinkcError as error:
        return error
    return None


def test_every_model_is_compressed_or_refused_with_a_cause(tmp_path: Path) -> None:
    distinct = {signature(case.model): case for case in cases() if not case.name.startswith("light/")}
    assert len(distinct) > 1000
    errors = {case.name: compressed(case.model, tmp_path) for case in distinct.values()}
    assert not [name for name, error in errors.items() if error is not None and not error.because]
    assert not [name for name, error in errors.items() if isinstance(error, VerificationError)]


def signature(model: onnx.ModelProto) -> str:
    """What tells models apart but the names and the numbers in them."""
    graph = model.graph
    nodes = [(node.op_type, [bool(name) for name in node.input], len(node.output)) for node in graph.node]
    settings = [[str(attribute) for attribute in node.attribute if attribute.type in (2, 3, 7)] for node in graph.node]
    opsets = [(entry.domain, entry.version) for entry in model.opset_import]
    return repr((nodes, settings, opsets, [str(value.type) for value in (*graph.input, *graph.output)]))


def sandwiches() -> Mapping[str, onnx.ModelProto]:
    """The first models of every operator, and every tenth of the rest, each between layers with weights."""
    seen: Counter[tuple[str, int]] = Counter()
    found: dict[str, onnx.ModelProto] = {}
    for number, case in enumerate(cases()):
        for slot in range(min(2, len(case.inputs))):
            kind = (case.model.graph.node[0].op_type, slot)
            if (number % 10 == 0 or seen[kind] < 2) and (made := Sandwich(case.model, slot).made(case.inputs, case.outputs)):
                seen[kind] += 1
                found[f"{case.name}@{slot}"] = made
    return found


def runs(model: onnx.ModelProto) -> bool:
    try:
        quiet_session(model)
    except Exception:
        return False
    return True


def test_every_operator_between_two_layers_is_pruned_and_proved_or_refused(tmp_path: Path) -> None:
    """The proof is the oracle: a rule that couples the wrong channels ends in a VerificationError."""
    errors = {name: compressed(model, tmp_path) for name, model in sandwiches().items() if runs(model)}
    wrong = {name for name, error in errors.items() if isinstance(error, VerificationError)}
    assert {name.split("@")[0] for name in wrong} <= SILENT_IN_ZEROED_FORM, {name: str(errors[name]) for name in wrong}
    assert sum(error is None for error in errors.values()) > 90
    assert not [name for name, error in errors.items() if error is not None and not error.because]
