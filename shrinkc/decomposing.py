"""Layers whose stored weights are of low rank already give way to their factors: nothing is lost, and that is proved.

For methods that train a model to low ranks (LRPET, say).  What approximates weights that are not is :mod:`shrinkc.lowrank`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from shrinkc import registry
from shrinkc.api import RuntimeAdapter
from shrinkc.errors import VerificationError
from shrinkc.factor_proof import prove_factors
from shrinkc.factorable import Candidate, Found, Scope, candidates_in
from shrinkc.lowrank import Factorised, factorised
from shrinkc.opening import counted_cost
from shrinkc.plan import Rank
from shrinkc.rank_choice import RankCost
from shrinkc.report.rows import change, count
from shrinkc.shapes import Shadow

FORMS = ("pointwise", "matrix")
"""Rewrites whose two factors meet in one axis of components: of convolutions, and of matrix products."""

LOSSLESS = 1e-4
"""Largest share of a layer's squared weights that the factors may lose: what rounding to bfloat16 does; to float32, 1e-13."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """Layers of a model that could be of a lower rank, each in the first form that fits, and what that would cost.

    Attributes
    ----------
    found : Found
    cost : RankCost
    """

    found: Found
    cost: RankCost

    @property
    def candidates(self) -> Mapping[str, Candidate]:
        """By layer, in the order of the graph."""
        return self.cost.candidates


def scope_without(exclude: Sequence[str]) -> Scope:
    """All layers but those of some shell patterns, in forms that any weight of low rank can take."""
    forms = tuple(registry.built("rewrites", name) for name in FORMS)
    return Scope(forms, registry.built("factorizations", "svd"), exclude=tuple(exclude))


def low_rank_layers(model: ir.Model, shapes: Mapping[str, tuple[int, ...]], scope: Scope, runtime: RuntimeAdapter) -> LowRank:
    """Find layers that could be of a lower rank; nothing is changed."""
    found = candidates_in(model, Shadow.of(model, shapes), scope, [], runtime)
    chosen: dict[str, Candidate] = {}
    for candidate in found.candidates:
        chosen.setdefault(candidate.name, candidate)
    return LowRank(found, RankCost(chosen, counted_cost(model, dict(shapes))))


@dataclass(frozen=True, eq=False)
class Decomposed:
    """A model with factors in the place of layers, and what is told about that.

    Attributes
    ----------
    model : ir.Model
    record : dict
        Plain data: layers, MACs and parameters before and after, the proof.
    """

    model: ir.Model
    record: dict[str, Any]


def decomposed(
    model: ir.Model,
    shapes: Mapping[str, tuple[int, ...]],
    scope: Scope,
    ranks: Mapping[str, int],
    runtime: RuntimeAdapter,
) -> Decomposed:
    """Factors of the given ranks in the place of layers, in a copy of a model.

    Parameters
    ----------
    model : ir.Model
    shapes : mapping of input name to shape
    scope : Scope
    ranks : mapping of layer name to int
        That the stored weights have.
    runtime : RuntimeAdapter
        To prove the result with.

    Raises
    ------
    VerificationError
        A weight is of a higher rank, or the new graph does not compute what the old one did.
    """
    layers = low_rank_layers(model, shapes, scope, runtime)
    steps = [Rank(name, layers.candidates[name].form.name, rank) for name, rank in ranks.items()]
    if not steps:
        return Decomposed(model, _record(layers, steps, None, layers.cost.dense.macs, layers.cost.dense.parameters))
    built = factorised(model, shapes, steps, tuple(layers.candidates.values()), [], runtime, 0)
    _check_lossless(built)
    proof = prove_factors(model, built.model, list(ranks), shapes, runtime)
    after = counted_cost(built.model, dict(shapes))
    record = _record(layers, steps, built, after.macs, after.parameters)
    return Decomposed(built.model, {**record, "proof": proof.to_json()})


def _check_lossless(built: Factorised) -> None:
    worst = max(built.measured, key=lambda name: built.measured[name])
    if built.measured[worst] > LOSSLESS:
        raise VerificationError(
            "a weight is not of the rank that it was trained to",
            where=worst,
            because=f"factors of rank {built.chains[worst].stages[0].weight.shape[0]} lose {built.measured[worst]:.2g} of its "
            "squared entries",
        )


def _record(layers: LowRank, steps: list[Rank], built: Factorised | None, macs: int, parameters: int) -> dict[str, Any]:
    rows = [
        {
            **asdict(step),
            "full_rank": layers.candidates[step.layer].full_rank,
            "break_even": layers.candidates[step.layer].largest_rank,
            "lost": 0.0 if built is None else built.measured[step.layer],
        }
        for step in steps
    ]
    factorised_layers = {step.layer for step in steps}
    whole = {name: "its rank would not pay" for name in layers.candidates if name not in factorised_layers}
    whole.update({layer.layer: layer.reason for layer in layers.found.whole})
    ranks = [row["rank"] / row["full_rank"] for row in rows]
    spread = f" of {min(ranks):.0%} to {max(ranks):.0%} of the full rank" if ranks else ""
    others = f", {len(whole)} others are whole" if whole else ""
    dense = layers.cost.dense
    return {
        "phase": "decomposition",
        "layers": rows,
        "whole": whole,
        "macs_before": dense.macs,
        "macs_after": macs,
        "parameters_before": dense.parameters,
        "parameters_after": parameters,
        "said": f"MACs: {count(dense.macs)} before, {count(macs)} after ({change(dense.macs, macs)}); {len(rows)} layers are "
        f"now factors{spread}{others}. The factors give what the trained layers gave: proved.",
    }
