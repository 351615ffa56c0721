"""Proof of a removal: the pruned model equals the original with the removed channels silenced.

In a copy of the original every removed slice is set to zero, at the weights that produce the channel and at those that
read it (to one where it divides).  Both models then run on the same inputs, once with the real weights and once with
re-drawn ones, so that channels that happen to be dead cannot hide a wrong coupling.  Operators that mix channels
without weights (a normalisation over channels, say) are made to see the kept channels only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.constants import is_fill
from shrinkc.analysis.flow import Mixing
from shrinkc.analysis.groups import Analysis, BoolArray
from shrinkc.analysis.labels import Shape
from shrinkc.api import RunConfig, RuntimeAdapter, Session
from shrinkc.edits import Removal, TensorEdit, tensor_edits
from shrinkc.errors import BuildError, VerificationError
from shrinkc.shapes import Shadow, real_inputs
from shrinkc.surgery import Surgery, open_copy

RELATIVE, ABSOLUTE = 1e-3, 1e-3
"""Outputs may differ by ``RELATIVE * |y| + ABSOLUTE * std(y)``: float32 noise of a re-ordered sum, far below one channel."""

FLOAT_NOISE = 5e-7
"""Differences below this are rounding of numbers around one (a saturated sigmoid, say), whatever the spread of the output."""

COARSER = {"float16": 20.0, "bfloat16": 160.0}
"""How much wider the tolerance is for outputs of coarser types, about in proportion to their spacing."""

WEAK_EFFECT = 20.0
"""A removal whose effect is below this many tolerances leaves the proof little to see."""

Arrays = Mapping[str, np.ndarray]
Draw = Callable[[TensorEdit, np.ndarray], np.ndarray]
"""Gives an edited tensor other values, at its full size."""


@dataclass(frozen=True)
class Trial:
    """One comparison.

    Attributes
    ----------
    weights : str
        ``real`` or ``redrawn``.
    inputs : str
        ``random, batch N`` or ``data``.
    error : float
        Largest difference in units of the tolerance; above 1 the proof fails.
    effect : float
        The same between the pruned model and the untouched original: what the removal did.
    """

    weights: str
    inputs: str
    error: float
    effect: float


@dataclass(frozen=True)
class Proof:
    """A passed proof."""

    trials: tuple[Trial, ...]
    exact_groups: int
    inexact_groups: int
    strict_shapes: str

    @property
    def is_weak(self) -> bool:
        """Whether in every trial the removal itself hardly showed."""
        return all(trial.effect < WEAK_EFFECT for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "is_weak": self.is_weak, "tolerance": {"relative": RELATIVE, "absolute_std": ABSOLUTE}}


def prove(
    analysis: Analysis,
    is_kept: BoolArray,
    pruned: ir.Model,
    shapes: dict[str, Shape],
    runtime: RuntimeAdapter,
    *,
    seed: int = 0,
    samples: Arrays | None = None,
) -> Proof:
    """Prove that ``pruned`` is what keeping ``is_kept`` asks for.

    Parameters
    ----------
    analysis : Analysis
        Of the original.
    is_kept : ndarray of bool
        See :meth:`Analysis.keep_mask`.
    pruned : ir.Model
    shapes : mapping of input name to shape
    runtime : RuntimeAdapter
        Runs both models.
    seed : int
        For random inputs and re-drawn weights.
    samples : mapping of input name to ndarray, optional
        Real inputs, used beside random ones.

    Raises
    ------
    VerificationError
        They differ, a tensor is not the planned slice, shapes do not infer strictly, or the original does not run.
    """
    edits = tensor_edits(analysis, is_kept)
    _check_tensors(pruned, edits)
    strict = _check_strict_shapes(analysis.model, pruned)
    trials = tuple(_trials(analysis, is_kept, pruned, edits, shapes, runtime, seed, samples))
    exact = sum(group.is_exact for group in analysis.groups)
    return Proof(trials, exact, len(analysis.groups) - exact, strict)


def _check_tensors(pruned: ir.Model, edits: Sequence[TensorEdit]) -> None:
    """Every cut tensor must be, bit for bit, the planned slice of the original."""
    stored = {value.name: value for value in _stored(pruned)}
    for edit in edits:
        if is_fill(edit.tensor):
            continue
        name = edit.copy_name or edit.tensor.name
        expected = _slice(_array(edit.tensor), edit.removal)
        found = stored.get(name)
        if found is None or _array(found).tobytes() != np.ascontiguousarray(expected).tobytes():
            raise VerificationError("a tensor of the pruned model is not the planned slice", where=name or "")


def _check_strict_shapes(original: ir.Model, pruned: ir.Model) -> str:
    """Onnx's strict inference on the result; models that fail it before the removal are not judged by it."""
    try:
        _infer_strictly(original)
    except onnx.shape_inference.InferenceError as error:
        return f"not applicable: the original does not infer strictly ({str(error).splitlines()[0][:120]})"
    try:
        _infer_strictly(pruned)
    except onnx.shape_inference.InferenceError as error:
        raise VerificationError("the pruned model fails strict shape inference", because=str(error)) from error
    return "passed"


def _infer_strictly(model: ir.Model) -> None:
    data = shrinkc_ir.skeleton(model)
    onnx.shape_inference.infer_shapes(data, check_type=True, strict_mode=True, data_prop=True)


def _trials(
    analysis: Analysis,
    is_kept: BoolArray,
    pruned: ir.Model,
    edits: Sequence[TensorEdit],
    shapes: dict[str, Shape],
    runtime: RuntimeAdapter,
    seed: int,
    samples: Arrays | None,
) -> Iterator[Trial]:
    feeds = _feeds(analysis.model, shapes, seed, samples)
    _load(runtime, analysis.model, "the original")
    for weights, draw in (("real", _as_is), ("redrawn", _redraw(seed))):
        dense = _load(runtime, _with_tensors(analysis, is_kept, shapes, draw).model, "the original")
        candidate = _load(runtime, _redrawn(pruned, edits, draw), "the pruned model")
        masked = _load(runtime, masked_original(analysis, is_kept, shapes, draw), "the masked original")
        for label, feed in [*feeds, *_at_other_sizes(analysis, is_kept, shapes, dense, seed)]:
            untouched = _run(dense, feed, "the original", label)
            actual = _run(candidate, feed, "the pruned model", label)
            error, where = _distance(_run(masked, feed, "the masked original", label), actual)
            effect, _ = _distance(untouched, actual)
            if not error <= 1:
                raise VerificationError(
                    "the pruned model does not equal the masked original",
                    where=f"output {where}",
                    because=f"it differs by {error:.3g} tolerances ({weights} weights, {label})",
                    hint="exclude the groups concerned with --exclude, and report the model",
                )
            yield Trial(weights, label, float(error), float(effect))


def _load(runtime: RuntimeAdapter, model: ir.Model, what: str) -> Session:
    try:
        return runtime.load(shrinkc_ir.loadable(model), RunConfig(threads=0))
    except BuildError as error:
        raise VerificationError(
            f"{what} does not load, so nothing can be proved", because=error.because, hint="--no-verify skips the proof"
        ) from error


def _run(session: Session, feed: Arrays, what: str, label: str) -> dict[str, np.ndarray]:
    try:
        outputs: dict[str, np.ndarray] = session.run(feed)
    except Exception as error:  # runtimes raise their own types
        raise VerificationError(
            f"{what} does not run", where=label, because=str(error)[:300], hint="give real sizes with --input-shapes"
        ) from error
    return outputs


def _feeds(model: ir.Model, shapes: Mapping[str, Shape], seed: int, samples: Arrays | None) -> list[tuple[str, Arrays]]:
    feeds: list[tuple[str, Arrays]] = []
    for batch in (1, 2) if _batch_is_free(model) else (None,):
        generator = np.random.default_rng(seed + (batch or 0))
        feed = {name: random_input(value, _batched(shapes[name], batch), generator) for name, value in _named_inputs(model)}
        feeds.append((f"random, batch {batch or 'fixed'}", feed))
    if samples is not None:
        feeds.append(("data", samples))
    return feeds


def _at_other_sizes(
    analysis: Analysis, is_kept: BoolArray, shapes: Mapping[str, Shape], dense: Session, seed: int
) -> list[tuple[str, Arrays]]:
    """A feed with every free size but the batch enlarged, if the original runs there: no size may have been frozen."""
    model = analysis.model
    larger = {name: _enlarged(value, shapes[name]) for name, value in _named_inputs(model)}
    if all(larger[name] == shapes[name] for name in larger) or _mixes_sizes(analysis, is_kept, larger):
        return []
    generator = np.random.default_rng(seed)
    feed = {name: random_input(value, larger[name], generator) for name, value in _named_inputs(model)}
    try:
        dense.run(feed)
    except Exception:  # many models only accept some sizes; then there is nothing to compare
        return []
    return [("random, larger sizes", feed)]


def _mixes_sizes(analysis: Analysis, is_kept: BoolArray, larger: Mapping[str, Shape]) -> bool:
    """Whether channels are mixed along an axis that also holds free sizes: the masked original fits one size only."""
    active = [mixing for mixing, classes in analysis.mixings() if not is_kept[classes].all()]
    if not active:
        return False
    shadow = Shadow.of(analysis.model, larger)
    data = [(mixing.node.inputs[mixing.input_index], mixing.axis) for mixing in active]
    return any(
        (shadow.shape(value) or ())[axis:][:1] != (analysis.shadow.shape(value) or ())[axis:][:1] for value, axis in data
    )


def _enlarged(value: ir.Value, shape: Shape) -> Shape:
    step = 32 if len(shape) >= 4 else 8  # images mostly want multiples of 32
    declared = list(value.shape or shape)
    return tuple(
        size + step if axis and not (isinstance(dim, int) and dim > 0) else size
        for axis, (size, dim) in enumerate(zip(shape, declared, strict=True))
    )


def _named_inputs(model: ir.Model) -> list[tuple[str, ir.Value]]:
    return [(value.name or "", value) for value in real_inputs(model)]


def _batch_is_free(model: ir.Model) -> bool:
    first = [value.shape[0] for value in real_inputs(model) if value.shape is not None and len(value.shape)]
    return bool(first) and all(not isinstance(dim, int) or dim <= 0 for dim in first)


def _batched(shape: Shape, batch: int | None) -> Shape:
    return shape if batch is None or not shape else (batch, *shape[1:])


def random_input(value: ir.Value, shape: Shape, generator: np.random.Generator) -> np.ndarray:
    """Random input that a model of any kind is likely to accept: normal floats, small positive integers, true."""
    dtype = (value.dtype or ir.DataType.FLOAT).numpy()
    if dtype == np.bool_:
        return np.ones(shape, np.bool_)
    if np.issubdtype(dtype, np.integer):
        return generator.integers(1, 8, shape).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)


def _distance(reference: Arrays, actual: Arrays) -> tuple[float, str]:
    """Largest difference over all outputs in units of the tolerance, and the output it is at."""
    worst, where = 0.0, ""
    for name, expected in reference.items():
        found = actual[name]
        if expected.shape != found.shape:
            return float("inf"), name
        violation = _violation(expected, found)
        if violation > worst:
            worst, where = violation, name
    return worst, where


def _violation(expected: np.ndarray, found: np.ndarray) -> float:
    if expected.size == 0 or not np.issubdtype(expected.dtype, np.number):
        return 0.0 if np.array_equal(expected, found) else float("inf")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    if (finite != np.isfinite(b)).any():
        return float("inf")
    a, b = a[finite], b[finite]
    if not a.size:
        return 0.0
    spread = a.std() if a.size > 1 else abs(float(a[0]))
    allowed = (RELATIVE * np.abs(a) + ABSOLUTE * spread + FLOAT_NOISE) * COARSER.get(expected.dtype.name, 1)
    return float((np.abs(a - b) / allowed).max())


def masked_original(analysis: Analysis, is_kept: BoolArray, shapes: dict[str, Shape], draw: Draw | None = None) -> ir.Model:
    """Copy of the original in which every removed channel is silent.

    Parameters
    ----------
    analysis : Analysis
    is_kept : ndarray of bool
    shapes : mapping of input name to shape
    draw : callable, optional
        Replaces the values of the planned tensors first.
    """

    def silenced(edit: TensorEdit, array: np.ndarray) -> np.ndarray:
        return _silenced((draw or _as_is)(edit, array), edit)

    surgery = _with_tensors(analysis, is_kept, shapes, silenced)
    for mixing, classes in analysis.mixings():
        if not is_kept[classes].all():
            _restrict(surgery, mixing)
    return surgery.model


def _with_tensors(analysis: Analysis, is_kept: BoolArray, shapes: dict[str, Shape], draw: Draw) -> Surgery:
    """Copy of the original with other values in the planned tensors, at full size, shared ones copied as planned."""
    surgery = open_copy(analysis, is_kept, shapes)
    for edit in sorted(tensor_edits(analysis, is_kept), key=lambda edit: edit.copy_name is None):
        base = _filled(edit.tensor) if is_fill(edit.tensor) else _array(edit.tensor)
        _place(surgery, edit, draw(edit, base))
    return surgery


def _place(surgery: Surgery, edit: TensorEdit, array: np.ndarray) -> None:
    """Give the uses of an edit a tensor of full size."""
    value = surgery.add_constant(edit.copy_name or f"{edit.tensor.name}.masked", array)
    for node, index in edit.uses:
        surgery.nodes[node].replace_input_with(index, value)


def _silenced(array: np.ndarray, edit: TensorEdit) -> np.ndarray:
    array = array.copy()
    for axis, removed in edit.removal:
        index: list[Any] = [slice(None)] * array.ndim
        index[axis] = list(removed)
        array[tuple(index)] = 1 if any(_divides(node, slot) for node, slot in edit.uses) else 0
    return array


def _divides(node: ir.Node, slot: int) -> bool:
    return (node.op_type, slot) in {("BatchNormalization", 4), ("Div", 1), ("Pow", 1)} or node.op_type in (
        "Reciprocal",
        "Log",
        "Sqrt",
    )


def _restrict(surgery: Surgery, mixing: Mixing) -> None:
    """Let a mixing operator see the kept channels only; where it keeps the axis, put them back among zeros."""
    node, original = surgery.nodes[mixing.node], mixing.node
    data = original.inputs[mixing.input_index]
    if data is None:
        raise VerificationError("a mixing node lost its input", where=original.name or original.op_type)
    kept = surgery.kept_positions(data, mixing.axis)
    _gather_input(surgery, node, mixing.input_index, kept, mixing.axis)
    for attachment in surgery.analysis.flow.attachments:
        if attachment.node is original:
            _gather_input(
                surgery,
                node,
                attachment.input_index,
                np.flatnonzero(surgery.is_kept[surgery.analysis.classes[attachment.labels]]),
                attachment.axis,
            )
    if mixing.keeps_axis:
        _scatter_output(surgery, node, kept, (surgery.analysis.shadow.shape(data) or ())[mixing.axis], mixing.axis)


def _gather_input(surgery: Surgery, node: ir.Node, index: int, kept: np.ndarray, axis: int) -> None:
    indices = surgery.add_constant(f"{node.outputs[0].name}.kept", kept)
    gather = ir.Node("", "Gather", [node.inputs[index], indices], [ir.AttrInt64("axis", axis)])
    gather.outputs[0].name = f"{indices.name}.values"
    surgery.model.graph.insert_before(node, gather)
    node.replace_input_with(index, gather.outputs[0])


def _scatter_output(surgery: Surgery, node: ir.Node, kept: np.ndarray, size: int, axis: int) -> None:
    output = node.outputs[0]
    rank = len(surgery.analysis.shadow.shape(_original_of(surgery, output)) or ())
    place = np.zeros(size, np.int64)
    place[kept] = np.arange(len(kept))
    mask = np.zeros([size if other == axis else 1 for other in range(rank)], (output.dtype or ir.DataType.FLOAT).numpy())
    mask[tuple(kept if other == axis else 0 for other in range(rank))] = 1
    users = list(output.uses())
    gather = ir.Node("", "Gather", [output, surgery.add_constant(f"{output.name}.place", place)], [ir.AttrInt64("axis", axis)])
    gather.outputs[0].name = f"{output.name}.spread"
    silence = ir.Node("", "Mul", [gather.outputs[0], surgery.add_constant(f"{output.name}.mask", mask)])
    silence.outputs[0].name = f"{output.name}.silenced"
    surgery.model.graph.insert_after(node, [gather, silence])
    for user, index in users:
        user.replace_input_with(index, silence.outputs[0])


def _original_of(surgery: Surgery, value: ir.Value) -> ir.Value:
    return next(original for original, copy in surgery.values.items() if copy is value)


def _as_is(edit: TensorEdit, array: np.ndarray) -> np.ndarray:
    return array


def _redraw(seed: int) -> Draw:
    """Shuffle signs and sizes of weights, move vectors; the same tensor is always drawn alike."""
    drawn: dict[ir.Value, np.ndarray] = {}

    def draw(edit: TensorEdit, array: np.ndarray) -> np.ndarray:
        if edit.tensor not in drawn:
            generator = np.random.default_rng([seed, *(edit.tensor.name or "").encode()])
            drawn[edit.tensor] = _perturbed(array, _is_positive_parameter(edit.tensor), generator)
        return drawn[edit.tensor]

    return draw


def _perturbed(array: np.ndarray, is_positive: bool, generator: np.random.Generator) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        return array
    factor = generator.random(array.shape, np.float32)
    if array.ndim > 1:  # 0.6 … 1.4 with either sign
        factor = np.where(factor < 0.5, -0.6 - 1.6 * factor, 1.6 * factor - 0.2)
        return np.asarray(array * factor).astype(array.dtype)
    shift = 0.0 if is_positive else generator.uniform(-0.2, 0.6, array.shape) * (np.abs(array).mean() + 0.1)
    return np.asarray(array * (0.6 + 0.8 * factor) + shift).astype(array.dtype)


def _is_positive_parameter(value: ir.Value) -> bool:
    """A variance or a divisor must keep its sign."""
    return any(_divides(usage.node, usage.idx) for usage in value.uses())


def _redrawn(pruned: ir.Model, edits: Sequence[TensorEdit], draw: Draw) -> ir.Model:
    """Copy of the pruned model with the planned tensors re-drawn before they are cut."""
    copy = pruned.clone()
    stored = {value.name: value for value in _stored(copy)}
    for edit in edits:
        value = stored.get(edit.copy_name or edit.tensor.name)
        if value is None:
            _store_fill(copy, edit, draw)
        else:
            shrinkc_ir.replace_tensor(value, _slice(draw(edit, _array(edit.tensor)), edit.removal))
    return copy


def _store_fill(model: ir.Model, edit: TensorEdit, draw: Draw) -> None:
    """Put a stored tensor in the place of a ConstantOfShape, so that its channels can differ."""
    name = edit.copy_name or edit.tensor.name
    value = next(output for node in model.graph for output in node.outputs if output.name == name)
    array = _slice(draw(edit, _filled(edit.tensor)), edit.removal)
    tensor = ir.tensor(np.ascontiguousarray(array), name=f"{name}.drawn")
    stored = ir.Value(
        name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
    )
    model.graph.register_initializer(stored)
    if model.ir_version < 4:
        model.graph.inputs.append(stored)
    value.replace_all_uses_with(stored)


def _slice(array: np.ndarray, removal: Removal) -> np.ndarray:
    for axis, removed in removal:
        array = np.delete(array, removed, axis)
    return array


def _array(value: ir.Value) -> np.ndarray:
    tensor = shrinkc_ir.constant_tensor(value)
    if tensor is None:
        raise VerificationError("a planned tensor is not stored in the model", where=value.name or "")
    return tensor.numpy()


def _filled(value: ir.Value) -> np.ndarray:
    """Array of a ConstantOfShape output whose shape is stored in the model."""
    node = value.producer()
    shape = None if node is None or node.inputs[0] is None else shrinkc_ir.constant_tensor(node.inputs[0])
    if node is None or shape is None:
        raise VerificationError("the size of a filled tensor is not stored in the model", where=value.name or "")
    attribute = node.attributes.get("value")
    fill = np.zeros(1, np.float32) if attribute is None else attribute.as_tensor().numpy()
    return np.broadcast_to(fill.reshape(()), shape.numpy().tolist())


def _stored(model: ir.Model) -> list[ir.Value]:
    values = list(model.graph.initializers.values())
    return values + [node.outputs[0] for node in model.graph if node.op_type == "Constant"]
