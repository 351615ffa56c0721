"""What the report says of every layer that was factorised, or could have been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shrinkc.factorable import Candidate, Found
from shrinkc.factored_latency import FactoredTimes
from shrinkc.latency.layer_times import LayerTimes
from shrinkc.layer_timing import Times
from shrinkc.lowrank import Factorised
from shrinkc.plan import Rank
from shrinkc.report.model import FactorRow

SLOWER = "measured, it takes no less time than the layer whole"
UNSETTLED = "measured again and again, what it gains is within the noise"
UNNEEDED = "the budget is met without it"
TAKEN = "its layers lose less factorised each by itself"


def why_refused(seen: LayerTimes | None) -> str:
    """Why a layer that was timed stays whole."""
    return SLOWER if seen is None or seen.is_settled else UNSETTLED


def report_rows(
    found: Found,
    ranks: Sequence[Rank],
    built: Factorised | None,
    times: Times | None,
    predicted: FactoredTimes | None,
    refused: Mapping[str, tuple[Rank, str]],
) -> tuple[FactorRow, ...]:
    """A row for every layer: factorised, or whole and why.

    Parameters
    ----------
    found : Found
    ranks : sequence of Rank
        Of the plan.
    built : Factorised or None
    times : Times or None
        Measured, of layers by themselves.
    predicted : FactoredTimes or None
    refused : mapping of layer name to (Rank, str)
        Layers that gain no time: what was tried, and how that was found out.
    """
    steps = {step.layer: step for step in ranks}
    candidates = {(candidate.name, candidate.form.name): candidate for candidate in found.candidates}
    table = []
    changed_by = {layer: step for step in ranks for layer in candidates[(step.layer, step.form)].layers}
    for name, layers in {candidate.name: candidate.layers for candidate in found.candidates}.items():
        step, reason = (steps[name], "") if name in steps else refused.get(name, (None, _why_not(name, layers, changed_by)))
        if step is None:
            table.append(FactorRow(name, reason=reason))
            continue
        candidate = candidates[(name, step.form)]
        seen = None if times is None else times.known.get((name, step.form, step.rank))
        table.append(_row(candidate, step, built, seen, predicted, reason))
    return (*table, *(FactorRow(whole.layer, reason=whole.reason) for whole in found.whole))


def _why_not(name: str, layers: Sequence[str], changed_by: Mapping[str, Rank]) -> str:
    """Why a layer that nobody refused has no rank of its own."""
    if name in changed_by:
        return f"it is part of {changed_by[name].layer}, which is factorised as {changed_by[name].form}"
    return TAKEN if any(layer in changed_by for layer in layers) else UNNEEDED


def _row(
    candidate: Candidate,
    step: Rank,
    built: Factorised | None,
    seen: LayerTimes | None,
    predicted: FactoredTimes | None,
    reason: str,
) -> FactorRow:
    is_done = built is not None and not reason
    own = built.candidates[candidate.name] if built is not None and is_done else candidate
    return FactorRow(
        candidate.name,
        form=step.form,
        rank=step.rank,
        full_rank=own.full_rank,
        break_even=own.largest_rank,
        predicted_error=own.error(step.rank),
        measured_error=built.measured[candidate.name] if built is not None and is_done else None,
        cpu_before_s=None if seen is None else seen.before_s,
        cpu_after_s=None if seen is None else seen.after_s,
        predicted_before_s=None if predicted is None else predicted.whole(candidate),
        predicted_after_s=None if predicted is None else predicted.factored(candidate, step.rank),
        reason=reason,
    )
