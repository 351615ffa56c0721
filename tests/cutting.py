"""Networks cut at random, ready to be repaired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from models.builder import Net

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.allocate import Allocating, Limits
from shrinkc.analysis.cost import CostModel
from shrinkc.analysis.groups import Analysis, analyse
from shrinkc.analysis.kinds import Kind
from shrinkc.api import Repair
from shrinkc.evidence.data import Data
from shrinkc.evidence.gathering import gather
from shrinkc.planning import weights_of
from shrinkc.shapes import input_shapes
from shrinkc.surgery import remove_channels
from shrinkc.testing import Randomly

Batch = Mapping[str, np.ndarray]


def analysed(net: Net | Path | onnx.ModelProto, **options: Any) -> Analysis:
    if isinstance(net, Path):
        model = shrinkc_ir.load(net)
    else:
        model = ir.from_proto(net.model() if isinstance(net, Net) else net)
    return analyse(model, input_shapes(model), registry.operator_rules(), **options)


def random_keep(analysis: Analysis, ratio: float = 0.5, seed: int = 0) -> dict[str, list[int]]:
    generator = np.random.default_rng(seed)
    scores = {group.name: generator.random(group.width) for group in analysis.groups}
    allocating = Allocating(analysis, CostModel(analysis), Randomly(generator, ratio), scores, Limits())
    return {name: list(kept) for name, kept in allocating.at(ratio).keep.items()}


def keep_by(analysis: Analysis, criterion: str, batches: Sequence[Batch], ratio: float = 0.5) -> dict[str, list[int]]:
    """What a criterion keeps if every group loses the same share."""
    chosen, allocator = registry.load("criteria", criterion)(), registry.load("allocators", "uniform")()
    stacked = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    evidence = None
    if chosen.needs_evidence:
        evidence = gather(analysis, Data(stacked, None, "test"), batches, registry.load("runtimes", "onnxruntime-cpu")())
    scores = {group.name: chosen.scores(group, weights_of(analysis), evidence) for group in analysis.groups}
    allocating = Allocating(analysis, CostModel(analysis), allocator, scores, Limits())
    return {name: list(kept) for name, kept in allocating.at(ratio).keep.items()}


def normal_batches(analysis: Analysis, n: int = 3, size: int = 8, seed: int = 1) -> list[Batch]:
    generator = np.random.default_rng(seed)
    shapes = input_shapes(analysis.model)
    return [
        {name: generator.standard_normal((size, *shape[1:])).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(n)
    ]


def cut(analysis: Analysis, keep: Mapping[str, Sequence[int]], batches: Sequence[Batch] | None = None) -> Repair:
    shapes, is_kept = input_shapes(analysis.model), analysis.keep_mask(keep)
    runtime = registry.load("runtimes", "onnxruntime-cpu")()
    pruned = remove_channels(analysis, is_kept, shapes)
    return Repair(analysis, is_kept, pruned, shapes, normal_batches(analysis) if batches is None else batches, runtime)


def randomly_cut(net: Net | Path | onnx.ModelProto, ratio: float = 0.5, seed: int = 0, **options: Any) -> Repair:
    analysis = analysed(net, **options)
    return cut(analysis, random_keep(analysis, ratio, seed))


def again(repair: Repair) -> Repair:
    """The same cut, not repaired yet."""
    return replace(repair, pruned=remove_channels(repair.analysis, repair.is_kept, dict(repair.shapes)))


def outputs(model: ir.Model, batches: Sequence[Batch]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = [session.run(None, dict(batch)) for batch in batches]
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]


def error(repair: Repair) -> float:
    """Squared error of the first output, relative to its variance."""
    wanted, got = outputs(repair.analysis.model, repair.batches)[0], outputs(repair.pruned, repair.batches)[0]
    return float(((wanted - got) ** 2).mean() / wanted.var())


EVERY_KIND = frozenset(Kind)
