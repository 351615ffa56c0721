"""For authors of operator rules: remove channels at random with a rule, and prove every removal by running the models."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.allocate import Allocating, Limits
from shrinkc.analysis.cost import CostModel
from shrinkc.analysis.flow import RuleTable
from shrinkc.analysis.groups import Analysis, analyse
from shrinkc.analysis.labels import Shape
from shrinkc.api import FloatArray, Probe, Problem, RunConfig, RuntimeAdapter, Session
from shrinkc.errors import RecipeError, VerificationError
from shrinkc.inlining import inline_functions
from shrinkc.shapes import input_shapes
from shrinkc.surgery import remove_channels
from shrinkc.verify import prove


def prove_rule(
    model: str | onnx.ModelProto,
    *,
    weights: Sequence[str] = (),
    rules: RuleTable | None = None,
    prune_ratio: float = 0.5,
    shapes: Mapping[str, Shape] | None = None,
    trials: int = 4,
    seed: int = 0,
) -> dict[str, int]:
    """Prune a model with an operator rule several times, at random, and prove each removal.

    Parameters
    ----------
    model : str or onnx.ModelProto
        ONNX text or a model, in which layers with weights stand before and after the operator.  If onnxruntime does not
        know the operator, give its meaning as a local function of the same domain and name: it is used to run the models,
        while the analysis sees the operator.
    weights : sequence of str
        Graph inputs that are to be weights: they become constants with random values of the declared shape.
    rules : mapping of (domain, operator) to rule, optional
        Rules to use besides the registered ones, and before them.
    prune_ratio : float in (0, 1)
        Fraction of the channels that goes, on average.
    shapes : mapping of input name to shape, optional
        Sizes of free dimensions.
    trials : int
        How many different removals are proved.
    seed : int

    Returns
    -------
    dict of str to int
        Channels removed from each group, over all trials.

    Raises
    ------
    AssertionError
        Nothing could be removed, or a removal is not the same as silencing the channels: the rule is wrong.

    Examples
    --------
    >>> text = '''<ir_version: 8, opset_import: ["": 17]>
    ... net (float[N,3,8,8] x, float[6,3,3,3] before, float[4,6,1,1] after) => (float[N,4,6,6] y) {
    ...     wide = Conv (x, before)
    ...     active = Relu (wide)
    ...     y = Conv (active, after)
    ... }'''
    >>> list(prove_rule(text, weights=["before", "after"]))
    ['before']
    """
    table = {**registry.operator_rules(), **(rules or {})}
    proto = _with_weights(onnx.parser.parse_model(model) if isinstance(model, str) else model, weights, seed)
    meanings = _taken_out(proto, table)
    analysis, sizes = _analysed(proto, table, shapes)
    assert analysis.groups, f"nothing can be removed from the model: {_reasons(analysis)}"
    runtime = WithFunctions(registry.load("runtimes", "onnxruntime-cpu")(), meanings)
    removed: Counter[str] = Counter()
    for trial in range(trials):
        removed.update(_trial(analysis, sizes, runtime, prune_ratio, seed + trial))
    assert removed, f"nothing was removed in {trials} trials; raise prune_ratio or give the layers more channels"
    return dict(removed)


def _trial(
    analysis: Analysis, sizes: dict[str, Shape], runtime: RuntimeAdapter, prune_ratio: float, seed: int
) -> dict[str, int]:
    generator = np.random.default_rng(seed)
    scores = {group.name: generator.random(group.width) for group in analysis.groups}
    keep = Allocating(analysis, CostModel(analysis), Randomly(generator, prune_ratio), scores, Limits()).at(prune_ratio).keep
    removed = {group.name: group.width - len(keep[group.name]) for group in analysis.groups if group.name in keep}
    is_kept = analysis.keep_mask(keep)
    try:
        pruned = remove_channels(analysis, is_kept, sizes)
        prove(analysis, is_kept, pruned, sizes, runtime, seed=seed)
    except VerificationError as error:
        raise AssertionError(f"keeping {_shown(analysis, keep)} is not the same as silencing the rest: {error}") from error
    return {name: count for name, count in removed.items() if count}


def _shown(analysis: Analysis, keep: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{list(keep[group.name])} of {group.name}" for group in analysis.groups if group.name in keep)


def _reasons(analysis: Analysis) -> str:
    found = [f"{refusal.blocker.reason} (at {refusal.where})" for refusal in analysis.refusals]
    return "; ".join(found) or "it has no layer with constant weights"


def _with_weights(model: onnx.ModelProto, names: Sequence[str], seed: int) -> onnx.ModelProto:
    """Copy in which the named inputs are constants."""
    copy, generator = onnx.ModelProto(), np.random.default_rng(seed)
    copy.CopyFrom(model)
    inputs = {value.name: value for value in copy.graph.input}
    for name in names:
        if name not in inputs:
            raise RecipeError("no such graph input", where=name, because=f"the inputs are {', '.join(inputs)}")
        tensor = inputs[name].type.tensor_type
        array = _random(tuple(dim.dim_value for dim in tensor.shape.dim), generator)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        copy.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(dtype), name))
        copy.graph.input.remove(inputs[name])
    return copy


def _random(shape: Shape, generator: np.random.Generator) -> FloatArray:
    """Values that make every channel matter: none near zero, either sign."""
    scale = np.sqrt(2 / max(1, int(np.prod(shape[1:])))) if len(shape) > 1 else 1.0
    return np.asarray(generator.uniform(0.4, 1.6, shape) * generator.choice([-1, 1], shape) * scale)


def _taken_out(model: onnx.ModelProto, table: RuleTable) -> list[onnx.FunctionProto]:
    """Functions that give a meaning to operators with a rule; the model keeps the others, which are inlined."""
    meanings = [function for function in model.functions if (function.domain, function.name) in table]
    for function in meanings:
        model.functions.remove(function)
    return meanings


def _analysed(
    proto: onnx.ModelProto, table: RuleTable, shapes: Mapping[str, Shape] | None
) -> tuple[Analysis, dict[str, Shape]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(proto, str(path))
        model: ir.Model = shrinkc_ir.load(path)
    inline_functions(model)
    sizes = input_shapes(model, dict(shapes or {}))
    return analyse(model, sizes, table), sizes


class Randomly:
    """An allocator that asks for a random share of every group.

    Parameters
    ----------
    generator : numpy Generator
    prune_ratio : float
        Mean of the share that goes.
    """

    name = "random"
    needs_evidence = False

    def __init__(self, generator: np.random.Generator, prune_ratio: float) -> None:
        self.generator, self.prune_ratio = generator, prune_ratio

    def widths(self, problem: Problem, pressure: float) -> dict[str, float]:
        """Between half and one and a half times the ratio, each group by itself."""
        shares = np.minimum(self.prune_ratio * self.generator.uniform(0.5, 1.5, len(problem.groups)), 1)
        return {group.name: float(group.width * (1 - share)) for group, share in zip(problem.groups, shares, strict=True)}


class WithFunctions:
    """A runtime that is told what unknown operators mean.

    Parameters
    ----------
    runtime : RuntimeAdapter
    functions : sequence of onnx.FunctionProto
        Added to every model that is loaded.
    """

    def __init__(self, runtime: RuntimeAdapter, functions: Sequence[onnx.FunctionProto]) -> None:
        self.runtime, self.functions, self.name = runtime, functions, runtime.name

    def probe(self) -> Probe:
        """Whether the runtime itself is here."""
        return self.runtime.probe()

    def load(self, model: Path | bytes, config: RunConfig) -> Session:
        """Load a model together with the functions.

        Raises
        ------
        BuildError
            The runtime refuses it.
        """
        proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(str(model))
        proto.functions.extend(self.functions)
        known = {entry.domain for entry in proto.opset_import}
        for function in self.functions:
            proto.opset_import.extend(entry for entry in function.opset_import if entry.domain not in known)
            known.update(entry.domain for entry in function.opset_import)
        return self.runtime.load(proto.SerializeToString(), config)
