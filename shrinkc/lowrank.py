"""Factorising as a stage: layers are found, replaced by chains, and what that cost is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from shrinkc import registry
from shrinkc.analysis.kinds import Kind
from shrinkc.api import RunConfig, RuntimeAdapter
from shrinkc.canonicalize import drop_unused
from shrinkc.errors import RecipeError
from shrinkc.evidence.patches import rows
from shrinkc.evidence.responses import Batches, needed_values, positions_of, response_sampling
from shrinkc.evidence.walking import Walk
from shrinkc.factorable import Candidate, Found, Scope, candidates_in, is_recurrent, layers_of
from shrinkc.factoring import factorise
from shrinkc.factors import Chain, Factorization, Form, energy
from shrinkc.head_folding import Folded, PairCandidate, folded, measured_error, with_means
from shrinkc.layer_timing import element_type, micro_model
from shrinkc.plan import Rank
from shrinkc.recipe import AUTO, Recipe
from shrinkc.shapes import Shadow
from shrinkc.stages import RECURRENT, Stage, composed

DEFAULT_FORMS = ("pointwise", "matrix", "recurrent", "embedding")
"""Rewrites that are tried where none were named; the others look at second moments of whole patches, which takes time."""


def scope_of(recipe: Recipe, only: frozenset[str] | None = None) -> Scope:
    """What a recipe lets be factorised, and how."""
    names = _default_forms(recipe) if recipe.forms is None else [name.strip() for name in recipe.forms.split(",")]
    wants_bytes = recipe.params is not None or recipe.size is not None
    built: list[Form] = [registry.built("rewrites", name) for name in names]
    forms = tuple(form for form in built if form.saves_time or wants_bytes)
    if recipe.forms is not None and len(forms) < len(built):
        raise RecipeError(
            "would have no effect",
            where=f"--forms {', '.join(form.name for form in built if form not in forms)}",
            because="it saves neither MACs nor time",
            hint="give --params or --size",
        )
    factorization: Factorization = registry.built("factorizations", recipe.factorization)
    return Scope(forms, factorization, recipe.round_to, recipe.exclude, recipe.include, only)


def _default_forms(recipe: Recipe) -> tuple[str, ...]:
    """Pairs as well where each layer gets whatever costs it least, unless the dims of heads may go as they are stored."""
    if recipe.method != AUTO or Kind.HEAD_DIM in recipe.kinds():
        return DEFAULT_FORMS
    return (*DEFAULT_FORMS, "pairs")


def found_in(model: ir.Model, shadow: Shadow, scope: Scope, batches: Batches, runtime: RuntimeAdapter, seed: int) -> Found:
    """Candidates of a model; see :func:`shrinkc.factorable.candidates_in`.

    Raises
    ------
    RecipeError
        The factors are to be found on data, and there are none.
    """
    if scope.factorization.needs_data and not batches:
        raise RecipeError(
            "the factors are found on data, and none were given",
            where=f"--factorization {scope.factorization.name}",
            hint="give --data, or --factorization bn-svd",
        )
    return candidates_in(model, shadow, scope, batches, runtime, seed)


@dataclass(frozen=True, eq=False)
class Factorised:
    """A model with chains in the place of layers.

    Attributes
    ----------
    model : ir.Model
    weights : mapping of layer name to tuple of str
        Names of the factors.
    chains : mapping of layer name to Chain
    candidates : mapping of layer name to Candidate
        Of the model before.
    measured : mapping of layer name to float
        Error found when the chains were run beside the layers (without data: of the stored weights).
    base : ir.Model
        What the chains were put into.
    fold : Folded or None
        How that came of the model before, where pairs of layers were folded.
    """

    model: ir.Model
    weights: Mapping[str, tuple[str, ...]]
    chains: Mapping[str, Chain]
    candidates: Mapping[str, Candidate]
    measured: Mapping[str, float]
    base: ir.Model
    fold: Folded | None = None


def factorised(
    model: ir.Model,
    shapes: Mapping[str, tuple[int, ...]],
    ranks: Sequence[Rank],
    candidates: Sequence[Candidate],
    batches: Batches,
    runtime: RuntimeAdapter,
    seed: int,
) -> Factorised:
    """Put factors of the given ranks into a copy of a model, and measure every layer's error.

    Raises
    ------
    RecipeError
        A step names a layer or a form that there is not, or a rank it cannot have.
    """
    by_key = {(candidate.name, candidate.form.name): candidate for candidate in candidates}
    chosen = {step.layer: _chosen(by_key, step) for step in ranks}
    rank_of = {step.layer: step.rank for step in ranks}
    pairs = {name: (own, rank_of[name]) for name, own in chosen.items() if isinstance(own, PairCandidate)}
    fold = folded(model, shapes, pairs) if pairs else None
    base = model if fold is None else with_means(fold, pairs)
    chains = {name: candidate.chain(rank_of[name]) for name, candidate in chosen.items() if name not in pairs}
    copy = base.clone()
    added = factorise(copy, layers_of(copy, Shadow.of(copy, shapes)), chains)
    drop_unused(copy)
    alone = {name: candidate for name, candidate in chosen.items() if name not in pairs}
    measured = _measured_errors(model, alone, chains, batches, runtime, seed)
    measured |= {name: measured_error(model, shapes, *own, batches, runtime, seed) for name, own in pairs.items()}
    return Factorised(copy, added, chains, chosen, measured, base, fold)


def _chosen(by_key: Mapping[tuple[str, str], Candidate], step: Rank) -> Candidate:
    candidate = by_key.get((step.layer, step.form))
    if candidate is None:
        raise RecipeError("the plan factorises a layer that cannot be", where=f"{step.layer} as {step.form}")
    if not 1 <= step.rank <= candidate.full_rank:
        raise RecipeError("the plan asks for an impossible rank", where=f"{step.layer}: {step.rank}")
    return candidate


def _measured_errors(
    model: ir.Model,
    candidates: Mapping[str, Candidate],
    chains: Mapping[str, Chain],
    batches: Batches,
    runtime: RuntimeAdapter,
    seed: int,
) -> dict[str, float]:
    if not batches:
        return {name: _weight_error(candidate, chains[name]) for name, candidate in candidates.items()}
    sites = [candidate.site for candidate in candidates.values()]
    walk = Walk(model, batches, runtime, needed_values(sites))
    n_samples = sum(len(next(iter(batch.values()))) for batch in batches)
    found = {}
    for site in sorted(sites, key=lambda site: walk.place(site.name) or 0):
        walk.advance((walk.place(site.name) or 0) + 1)
        found[site.name] = _output_error(model, walk, candidates[site.name], chains[site.name], n_samples, runtime, seed)
        walk.release(site.name)
        walk.release(site.data.name or "")
    return found


def _weight_error(candidate: Candidate, chain: Chain) -> float:
    """Share of the squared weights that the stored factors lose."""
    dtype = element_type(candidate.site)
    stored = [Stage(stage.op_type, stage.weight.astype(dtype), stage.bias, stage.attributes) for stage in chain.stages]
    product, layer = candidate.as_matrix(composed(stored)[0]), candidate.layer
    return float(np.square(layer.weight - product).sum() / (np.square(layer.weight).sum() or 1.0))


def _output_error(
    model: ir.Model, walk: Walk, candidate: Candidate, chain: Chain, n_samples: int, runtime: RuntimeAdapter, seed: int
) -> float:
    """Run a chain on what the layer reads and compare it with what the layer gave, on the rows that the evidence saw."""
    site, layer = candidate.site, candidate.layer
    session = runtime.load(micro_model(model, site, _linear(chain.stages)), RunConfig(threads=0))
    weight = layer.weight[0].astype(element_type(site)) if is_recurrent(site) else None
    width = site.inputs // site.groups * site.taps if layer.inputs is not None else site.outputs // site.groups
    sampling = response_sampling(site, width, n_samples, seed)
    squared, count = 0.0, 0
    for number in range(walk.n_batches):
        data = walk.value(site.data.name or "", number)
        positions = positions_of(site, number, data, sampling)
        made = walk.value(site.name, number) if weight is None else data @ weight.T
        wanted = rows(site, made, positions).astype(np.float64)
        given = rows(site, session.run({"x": data})["y"], positions).astype(np.float64)
        if chain.shift is not None:
            given = given + chain.shift[:, None]
        squared, count = squared + float(np.square(wanted - given).sum()), count + wanted.shape[1]
    return squared / max(1, count) / (energy(layer) or 1.0)


def _linear(stages: Sequence[Stage]) -> list[Stage]:
    """Stages with the input matrices of a recurrent layer as a plain product: what they give is no value of the graph."""
    return [
        Stage("MatMul", stage.weight.reshape(-1, stage.weight.shape[-1]).T) if stage.op_type in RECURRENT else stage
        for stage in stages
    ]
