"""A plan carried out: channels are removed, layers factorised, both proved, and what is left repaired and recovered."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc import recovering, verify
from shrinkc.analysis.groups import BoolArray
from shrinkc.api import Repaired
from shrinkc.canonicalize import canonicalize
from shrinkc.errors import VerificationError
from shrinkc.evidence import data as evidence_data
from shrinkc.factor_proof import FactorProof, prove_equal, prove_factors
from shrinkc.lowrank import Factorised
from shrinkc.opening import Opened
from shrinkc.plan import Plan
from shrinkc.recipe import Recipe
from shrinkc.recovering import Recovered
from shrinkc.repairing import repaired
from shrinkc.run import Run
from shrinkc.surgery import remove_channels
from shrinkc.verify import Proof

LARGE_MODEL_BYTES = 32 << 20
"""Copies of models of this size are looked for and let go of after the proof: graphs refer to themselves, so that Python would
keep them, weights and all, until it happens to look."""


@dataclass(frozen=True, eq=False)
class Built:
    """A plan carried out: the model to write, and what is known of every step on the way."""

    model: ir.Model
    proof: Proof | None
    repair: Repaired
    factorised: Factorised | None = None
    factor_proof: FactorProof | None = None


def built(run: Run, plan: Plan) -> Built:
    """Cut, prove, repair; then factorise, prove and repair again, where the plan has ranks.

    Raises
    ------
    VerificationError
        A proof failed; the model is kept beside the output.
    """
    opened = run.opened
    is_kept = opened.analysis.keep_mask(plan.keep())
    with run.progress.stage("removing channels"):
        model = cut(opened, run.recipe, is_kept)
    proof = _prove(run, model, is_kept) if run.recipe.verify and not plan.removes_nothing else None
    _let_go(opened)
    repair = Repaired() if plan.removes_nothing else _repaired(run, model, is_kept)
    if not plan.ranks:
        return Built(model, proof, repair)
    work = run.factorising.built(model, plan)
    factor_proof = _prove_factors(run, model, work) if run.recipe.verify else None
    _let_go(opened)
    refit = _repaired_factors(run, work, is_kept)
    both = Repaired(tuple(dict.fromkeys((*repair.tensors, *refit.tensors))), refit.layers, (*repair.notes, *refit.notes))
    return Built(work.model, proof, both, work, factor_proof)


def tried(run: Run, plan: Plan) -> ir.Model:
    """The model a plan leads to, before recovery; nothing is proved yet, as another plan may be better."""
    return built(replace(run, recipe=replace(run.recipe, verify=False)), plan).model


def cut(opened: Opened, recipe: Recipe, is_kept: BoolArray) -> ir.Model:
    """The model without some channels, and without what they made superfluous if the recipe wants that."""
    pruned = remove_channels(opened.analysis, is_kept, opened.shapes)
    return canonicalize(pruned) if recipe.optimize else pruned


def _prove(run: Run, pruned: ir.Model, is_kept: BoolArray) -> Proof:
    """Proof of the surgery itself, before anything is compensated."""
    opened, head = run.opened, _head(run)
    with run.progress.stage("proving the surgery"), _keeping_rejected(run, pruned):
        return verify.prove(opened.analysis, is_kept, pruned, opened.shapes, run.runtime, seed=run.recipe.seed, samples=head)


def _prove_factors(run: Run, before: ir.Model, work: Factorised) -> FactorProof:
    """Proof of the factorisation itself, before anything is refitted."""
    names, shapes = list(work.weights), run.opened.shapes
    with run.progress.stage("proving the factors"), _keeping_rejected(run, work.model):
        if work.fold is not None:
            fold, seed = work.fold, run.recipe.seed
            prove_equal(before, fold.turned, shapes, run.runtime, seed=seed)
            verify.prove(fold.analysis, fold.is_kept, fold.model, shapes, run.runtime, seed=seed, samples=_head(run))
        return prove_factors(work.base, work.model, names, shapes, run.runtime, seed=run.recipe.seed, samples=_head(run))


def _head(run: Run) -> dict[str, np.ndarray] | None:
    """A few real samples for a proof."""
    real = run.samples.evaluation or run.samples.calibration
    return None if real is None else real.head(evidence_data.fixed_batch(run.opened.model) or 2)


@contextmanager
def _keeping_rejected(run: Run, model: ir.Model) -> Iterator[None]:
    """Write down a model that fails its proof, and say where."""
    try:
        yield
    except VerificationError as error:
        rejected = run.artifacts.beside(".rejected.onnx")
        shrinkc_ir.save(model, rejected)
        error.also_try(f"the rejected model is kept at {rejected}")
        raise


def _let_go(opened: Opened) -> None:
    """Free the copies of a large model that a proof made."""
    if opened.size_bytes > LARGE_MODEL_BYTES:
        gc.collect()


def _repaired(run: Run, model: ir.Model, is_kept: BoolArray) -> Repaired:
    return repaired(run.opened, run.recipe, model, is_kept, run.samples.calibration, run.runtime, run.progress)


def _repaired_factors(run: Run, work: Factorised, is_kept: BoolArray) -> Repaired:
    """Repair a model with factors; where pairs were folded, the one with turned heads says which dims are which."""
    if work.fold is None:
        return _repaired(run, work.model, is_kept)
    turned = replace(run, opened=replace(run.opened, analysis=work.fold.analysis))
    return _repaired(turned, work.model, work.fold.is_kept)


def recovered(run: Run, model: ir.Model, plan: Plan) -> Recovered:
    """Let the model that a plan led to learn from the original, in place, as the recipe asks."""
    is_kept, samples = run.opened.analysis.keep_mask(plan.keep()), run.samples.training
    return recovering.recovered(
        run.opened, run.recipe, model, is_kept, samples, run.runtime, run.progress, run.artifacts.checkpoint
    )
