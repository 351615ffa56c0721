"""Factorising in a run: what is found is found once, layers that gain no time are refused, plans are carried out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import onnx_ir as ir

from shrinkc import target
from shrinkc.api import RuntimeAdapter
from shrinkc.calibrating import Batches, batches_for, few_for_probes
from shrinkc.errors import BudgetError
from shrinkc.evidence.data import Data
from shrinkc.factorable import Found
from shrinkc.layer_sensitivity import layer_sensitivities
from shrinkc.log import Progress
from shrinkc.lowrank import Factorised, Times, factorised, found_in, report_rows, scope_of, slower, without
from shrinkc.opening import Opened
from shrinkc.plan import Plan, Rank
from shrinkc.planning import FORM_SHARE, Planned
from shrinkc.rank_allocation import best_forms
from shrinkc.recipe import Recipe
from shrinkc.report.model import FactorRow
from shrinkc.shapes import Shadow

ATTEMPTS = 8
"""How often ranks are chosen again because some layers gained no time."""


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
    refused : dict of layer name to Rank
        Steps that gained no time.
    """

    opened: Opened
    recipe: Recipe
    calibration: Data | None
    runtime: RuntimeAdapter
    progress: Progress
    times: Times | None = None
    refused: dict[str, Rank] = field(default_factory=dict)

    @cached_property
    def batches(self) -> Batches:
        """Calibration samples in batches; empty without data."""
        return [] if self.calibration is None else batches_for(self.opened, self.calibration)

    @cached_property
    def sensitivity(self) -> dict[str, float]:
        """Error of the outputs per error of a layer, by layer; empty without data."""
        chosen = best_forms(self.found.candidates, FORM_SHARE)
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

    def planned(self, plan: Callable[[Found], Planned]) -> Planned:
        """Plan whose layers all gain time by themselves, if latency is measured.

        Raises
        ------
        BudgetError
            The budget is out of reach, or too many layers gain no time.
        """
        for _ in range(ATTEMPTS):
            chosen = plan(without(self.found, self.refused))
            slow = [] if self.times is None else self._slower(chosen.plan.ranks, self.times)
            if not slow:
                return chosen
            self.refused |= {step.layer: step for step in slow}
        raise BudgetError(
            "too many layers gain no time by being factorised",
            because=f"{len(self.refused)} of them were measured",
            hint="--no-latency leaves the measurement out; --method auto removes channels too",
        )

    def _slower(self, ranks: Sequence[Rank], times: Times) -> list[Rank]:
        with self.progress.stage(f"timing {len(ranks)} layers"):
            return slower(ranks, self.found.candidates, times)

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
        return report_rows(self.found, ranks, built, self.times, self.refused)


def layer_times(opened: Opened, recipe: Recipe, runtime: RuntimeAdapter, threads: int) -> Times | None:
    """Times of layers by themselves, where the target is this machine: what its CPU takes says nothing about another engine."""
    chosen = target.load(recipe.target)
    is_timed = chosen.is_here and chosen.runtime == runtime.name
    return Times(opened.model, opened.analysis.shadow, runtime, threads) if is_timed else None
