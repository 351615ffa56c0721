"""Proof of a removal: the pruned model equals the original with the removed channels silenced.

In a copy of the original every removed slice is set to zero, at the weights that produce the channel and at those that
read it (to one where it divides).  Both models then run on the same inputs, once with the real weights and once with
re-drawn ones, so that channels that happen to be dead cannot hide a wrong coupling.  Operators that mix channels
without weights (a normalisation over channels, say) are made to see the kept channels only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.constants import is_fill
from shrinkc.analysis.groups import Analysis, BoolArray, stored_tensors
from shrinkc.analysis.labels import Shape
from shrinkc.api import RunConfig, RuntimeAdapter, Session
from shrinkc.edits import TensorEdit, cut, tensor_edits
from shrinkc.errors import BuildError, VerificationError
from shrinkc.feeding import Arrays, at_other_sizes, feeds
from shrinkc.masking import as_is, masked_original, redraw, redrawn, with_tensors

RELATIVE, ABSOLUTE = 1e-3, 1e-3
"""Outputs may differ by ``RELATIVE * |y| + ABSOLUTE * std(y)``: float32 noise of a re-ordered sum, far below one channel."""

FLOAT_NOISE = 5e-7
"""Differences below this are rounding of numbers around one (a saturated sigmoid, say), whatever the spread of the output."""

COARSER = {"float16": 20.0, "bfloat16": 160.0}
"""How much wider the tolerance is for outputs of coarser types, about in proportion to their spacing."""

WEAK_EFFECT = 20.0
"""A removal whose effect is below this many tolerances leaves the proof little to see."""


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
    strict = check_strict_shapes(analysis.model, pruned)
    trials = tuple(_trials(analysis, is_kept, pruned, edits, shapes, runtime, seed, samples))
    exact = sum(group.is_exact for group in analysis.groups)
    return Proof(trials, exact, len(analysis.groups) - exact, strict)


def _check_tensors(pruned: ir.Model, edits: Sequence[TensorEdit]) -> None:
    """Every cut tensor must be, bit for bit, the planned slice of the original."""
    stored = {value.name: value for value in stored_tensors(pruned)}
    for edit in edits:
        if is_fill(edit.tensor):
            continue
        name = edit.copy_name or edit.tensor.name
        expected = cut(shrinkc_ir.stored_array(edit.tensor), edit.removal)
        found = stored.get(name)
        if found is None or shrinkc_ir.stored_array(found).tobytes() != np.ascontiguousarray(expected).tobytes():
            because = "it is not there" if found is None else "its values or its shape differ"
            raise VerificationError("a tensor of the pruned model is not the planned slice", where=name or "", because=because)


def check_strict_shapes(original: ir.Model, pruned: ir.Model) -> str:
    """Onnx's strict inference on the result; originals that fail it before the removal are not judged by it."""
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
    inputs = feeds(analysis.model, shapes, seed, samples)
    load_model(runtime, analysis.model, "the original")
    for weights, draw in (("real", as_is), ("redrawn", redraw(seed))):
        dense = load_model(runtime, with_tensors(analysis, is_kept, shapes, draw).model, "the original")
        candidate = load_model(runtime, redrawn(pruned, edits, draw), "the pruned model")
        masked = load_model(runtime, masked_original(analysis, is_kept, shapes, draw), "the masked original")
        for label, feed in [*inputs, *at_other_sizes(analysis, is_kept, shapes, dense, seed)]:
            untouched = run_model(dense, feed, "the original", label)
            actual = run_model(candidate, feed, "the pruned model", label)
            error, where = distance(run_model(masked, feed, "the masked original", label), actual)
            effect, _ = distance(untouched, actual)
            if not error <= 1:
                raise VerificationError(
                    "the pruned model does not equal the masked original",
                    where=f"output {where}",
                    because=f"it differs by {error:.3g} tolerances ({weights} weights, {label})",
                    hint="exclude the groups concerned with --exclude, and report the model",
                )
            yield Trial(weights, label, float(error), float(effect))
        del dense, candidate, masked  # three models are enough to hold


def load_model(runtime: RuntimeAdapter, model: ir.Model, what: str) -> Session:
    """Load one of the models of a proof; raises VerificationError, as without it nothing can be proved."""
    try:
        return runtime.load(shrinkc_ir.loadable(model), RunConfig(threads=0))
    except BuildError as error:
        raise VerificationError(
            f"{what} does not load, so nothing can be proved", because=error.because, hint="--no-verify skips the proof"
        ) from error


def run_model(session: Session, feed: Arrays, what: str, label: str) -> dict[str, np.ndarray]:
    """Run one of the models of a proof; raises VerificationError if it does not run."""
    try:
        outputs: dict[str, np.ndarray] = session.run(feed)
    except Exception as error:  # runtimes raise their own types
        raise VerificationError(
            f"{what} does not run", where=label, because=str(error)[:300], hint="give real sizes with --input-shapes"
        ) from error
    return outputs


def distance(reference: Arrays, actual: Arrays) -> tuple[float, str]:
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
