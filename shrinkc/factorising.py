"""Factorising in a run: what is found is found once, layers that gain no time are refused, plans are carried out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import onnx_ir as ir

from shrinkc import target, timing
from shrinkc.api import RunConfig, RuntimeAdapter
from shrinkc.calibrating import Batches, batches_for, few_for_probes
from shrinkc.evidence.data import Data
from shrinkc.factor_rows import report_rows, why_refused
from shrinkc.factorable import Candidate, Found, Whole
from shrinkc.factored_latency import FactoredTimes, layers_of_chain
from shrinkc.latency.measured_pairs import MeasuredPairs
from shrinkc.layer_sensitivity import layer_sensitivities
from shrinkc.layer_timing import Times
from shrinkc.log import Progress
from shrinkc.lowrank import Factorised, factorised, found_in, scope_of
from shrinkc.opening import Opened
from shrinkc.plan import Plan, Rank
from shrinkc.planning import FORM_SHARE, Planned
from shrinkc.rank_allocation import best_forms
from shrinkc.recipe import Recipe
from shrinkc.report.model import FactorRow
from shrinkc.shapes import Shadow
from shrinkc.timing import Timed

TRIES = 2
"""Ranks at which a form of a layer is timed before it is given up: that of the plan, and at most half of it."""


@dataclass
class Factorising:
    """One run's factorisations.

    Attributes
    ----------
    opened : Opened
    recipe : Recipe
    calibration : Data or None
    runtime : RuntimeAdapter
    progress : Progress
    times : Times or None
        Of layers by themselves; None where latency is not measured, and nothing is refused for it.
    timed : Timed or None
        Where a forecast of time rests on, if there is one; layers that gain nothing by it are refused as well.
    refused : dict of (layer name, form) to list of Rank
        Steps that gained no time.
    """

    opened: Opened
    recipe: Recipe
    calibration: Data | None
    runtime: RuntimeAdapter
    progress: Progress
    times: Times | None = None
    timed: Timed | None = None
    refused: dict[tuple[str, str], list[Rank]] = field(default_factory=dict)

    @cached_property
    def batches(self) -> Batches:
        """Calibration samples in batches; empty without data."""
        return [] if self.calibration is None else batches_for(self.opened, self.calibration)

    @cached_property
    def sensitivity(self) -> dict[str, float]:
        """Error of the outputs per error of a layer, by layer; empty without data."""
        chosen = best_forms(self.left().candidates, FORM_SHARE)
        if not self.batches or not chosen:
            return {}
        few = few_for_probes(self.batches, self.opened, len(chosen))
        with self.progress.stage("probing how much every layer matters"):
            return layer_sensitivities(self.opened.model, self.opened.analysis.shadow, chosen, few, self.runtime)

    @cached_property
    def found(self) -> Found:
        """Candidates of the original; decompositions are made once and serve every budget."""
        with self.progress.stage("looking at what could be factorised"):
            shadow = self.opened.analysis.shadow
            return found_in(self.opened.model, shadow, scope_of(self.recipe), self.batches, self.runtime, self.recipe.seed)

    @cached_property
    def priced(self) -> tuple[FactoredTimes | None, frozenset[tuple[str, str]]]:
        """Predicted times, and candidates (layer, form) whose factors the source of times knows nothing of."""
        if self.timed is None:
            return None, frozenset()
        shadow = self.opened.analysis.shadow
        with self.progress.stage("timing layers of factors"):
            chains = {_key(candidate): layers_of_chain(candidate, shadow) for candidate in self.found.candidates}
            lacking = set(self.timed.extend([layer for layers in chains.values() for layer in layers]))
        unknown = frozenset(key for key, layers in chains.items() if any(layer in lacking for layer in layers))
        return FactoredTimes(shadow, self.timed.forecast.times, self.timed.forecast.factor), unknown

    @property
    def predicted(self) -> FactoredTimes | None:
        """Predicted times of layers, whole and factorised."""
        return self.priced[0]

    @property
    def knows_times(self) -> bool:
        """Whether layers are measured by themselves or priced by a table or a roofline."""
        return self.times is not None or self.timed is not None

    @cached_property
    def promising(self) -> Found:
        """What was found, without what the source of times knows nothing of."""
        unknown = self.priced[1]
        left = tuple(candidate for candidate in self.found.candidates if _key(candidate) not in unknown)
        return _found(left, self.found, dict.fromkeys((name for name, _ in unknown), UNKNOWN))

    @cached_property
    def idle(self) -> dict[tuple[str, str], Rank]:
        """Candidates that are predicted to gain no time, and the rank at which they come closest to it."""
        times = self.predicted
        if times is None:
            return {}
        timely = [candidate for candidate in self.promising.candidates if candidate.form.saves_time]
        closest = {_key(candidate): (candidate, _quickest(candidate, times)) for candidate in timely}
        return {
            key: Rank(candidate.name, candidate.form.name, rank)
            for key, (candidate, rank) in closest.items()
            if times.factored(candidate, rank) >= times.whole(candidate)
        }

    def planned(self, plan: Callable[[Found], Planned]) -> Planned:
        """Plan whose layers all gain time by themselves, if latency is measured.

        Raises
        ------
        BudgetError
            The budget is out of reach, perhaps because too many layers gain no time.
        """
        while True:
            chosen = plan(self.left())
            slow = [] if self.times is None else self._slower(chosen.plan.ranks, self.times)
            if not slow:
                return chosen
            for step in slow:
                self.refused.setdefault((step.layer, step.form), []).append(step)

    def left(self) -> Found:
        """What is left to choose from once some ranks of some layers gained no time."""
        limited = [self._limited(candidate) for candidate in self.promising.candidates]
        return _found([one for one in limited if one is not None], self.promising, self._reasons())

    def _limited(self, candidate: Candidate) -> Candidate | None:
        """A candidate without the ranks that gained no time; None once it is given up."""
        tried = self.refused.get(_key(candidate), [])
        if len(tried) >= TRIES or _key(candidate) in self.idle:
            return None
        least = min((step.rank // 2 for step in tried), default=candidate.full_rank)
        limited = candidate.up_to(least) if tried else candidate
        return limited if limited.largest_rank else None

    def _reasons(self) -> dict[str, str]:
        return {name: reason for name, (_, reason) in self._refusals().items()}

    def _refusals(self) -> dict[str, tuple[Rank, str]]:
        """What was tried of every layer that gains no time, and how that was found out."""
        basis = "" if self.timed is None else self.timed.basis
        predicted = {name: (step, f"{basis}: {IDLE}") for (name, _), step in self.idle.items()}
        times = {} if self.times is None else self.times.known
        return predicted | {
            name: (steps[-1], why_refused(times.get((name, form, steps[-1].rank))))
            for (name, form), steps in self.refused.items()
        }

    def _slower(self, ranks: Sequence[Rank], times: Times) -> list[Rank]:
        """Steps that save work but no time on the runtime at hand."""
        by_key = {_key(candidate): candidate for candidate in self.found.candidates}
        with self.progress.stage(f"timing {len(ranks)} layers"):
            timely = [step for step in ranks if by_key[(step.layer, step.form)].form.saves_time]
            seen = [(step, times.of(by_key[(step.layer, step.form)], step.rank)) for step in timely]
            return [step for step, found in seen if found is not None and not found.is_faster]

    def built(self, base: ir.Model, plan: Plan) -> Factorised:
        """Carry out the ranks of a plan on a model, its channels cut already."""
        candidates = self.found if plan.removes_nothing else self._found_in(base, plan.ranks)
        with self.progress.stage(f"factorising {len(plan.ranks)} layers"):
            return factorised(
                base,
                self.opened.shapes,
                plan.ranks,
                candidates.candidates,
                self.batches,
                self.runtime,
                self.recipe.seed,
            )

    def _found_in(self, base: ir.Model, ranks: Sequence[Rank]) -> Found:
        scope = scope_of(self.recipe, frozenset(step.layer for step in ranks))
        shadow = Shadow.of(base, self.opened.shapes)
        return found_in(base, shadow, scope, self.batches, self.runtime, self.recipe.seed)

    def rows(self, ranks: Sequence[Rank], built: Factorised | None) -> tuple[FactorRow, ...]:
        """Report of every layer."""
        return report_rows(self.promising, ranks, built, self.times, self.predicted, self._refusals())


IDLE = "at no rank it takes less time than the layer whole"
UNKNOWN = "the latency table does not know its factors (`shrinkc targets calibrate --forms` records them)"


def _key(candidate: Candidate) -> tuple[str, str]:
    return candidate.name, candidate.form.name


def _quickest(candidate: Candidate, times: FactoredTimes) -> int:
    """The rank that is predicted to take least time."""
    ranks = range(candidate.step, max(candidate.step, candidate.largest_rank) + 1, candidate.step)
    return min(ranks, key=lambda rank: times.factored(candidate, rank))


def _found(candidates: Sequence[Candidate], before: Found, reasons: dict[str, str]) -> Found:
    """Fewer candidates; layers of which none is left stay whole."""
    left = {candidate.name for candidate in candidates}
    gone = dict.fromkeys(candidate.name for candidate in before.candidates if candidate.name not in left)
    return Found(tuple(candidates), (*before.whole, *(Whole(name, reasons[name]) for name in gone)))


def layer_times(opened: Opened, recipe: Recipe, runtime: RuntimeAdapter, threads: int, sources: timing.Sources) -> Times | None:
    """Times of layers by themselves, where the target is this machine: what its CPU takes says nothing about another engine."""
    chosen = target.load(recipe.target)
    if not (chosen.is_here and chosen.runtime == runtime.name):
        return None
    kept = MeasuredPairs(timing.cache_file(sources.cache, runtime, RunConfig(threads=threads), "factors"))
    return Times(opened.model, opened.analysis.shadow, runtime, threads, kept)
