"""LRPET: training alternates with projection of the weights to low ranks; in the end they give way to their factors.

Guo, Lin, Chen, Xing, Liu, Xu. Compact Model Training by Low-Rank Projection with Energy Transfer. IEEE TNNLS 2024 (arXiv
2204.05566), and its published code.  A weight is unfolded to ``M`` of shape (outputs, inputs * taps), one row a filter.  With
``alpha = gamma / sqrt(var + eps)`` of the BatchNormalization behind it, by its running variance, a projection is

    1. rectification: ``M~ = diag(alpha) M = U diag(s) V^T``,
    2. energy transfer: the first ``r`` singular values grow by ``kappa``, the others shrink to ``f`` of themselves,
       ``kappa^2 = (sum_i s_i^2 - f^2 sum_{i>r} s_i^2) / sum_{i<=r} s_i^2``, so that ``|M~|_F`` stays what it was; ``f = 0``,
    3. back: ``M = diag(alpha)^-1 U diag(s') V^T``, which has the rank of ``M~``.

It happens once per epoch (CIFAR) or every so many steps (ImageNet: 250); the optimizer's state is left alone, and in between
nothing holds the ranks.  The last thing before the decomposition is a projection with ``f = 0``, so the decomposition loses
nothing.  Ranks: ``uniform``, ``r = int(n - n * remove)`` with ``n`` the full rank; ``manual``; ``searched`` by Bayesian
optimisation.

Differs:

* A layer and its normalisation are found by the edge between them, not by counting modules.  Where no BatchNormalization reads
  the layer alone (folded ones too), alpha is 1.
* Rows of ``|alpha|`` below a thousandth of the layer's largest count as that, and are divided by it: the published code
  multiplies by ``alpha / (alpha^2 + 1e-5)``, which shrinks rows of small gain a little in every projection, so that neither the
  energy is kept nor a second projection changes nothing.  Nor are layers with ``s_1 < 1e-4`` left out: they stay what they are
  up to the rank, and no branch is dropped for them.
* Only layers whose rank is below the break-even point are projected and decomposed; the published code does all convolutions.
  Matrix products take part, the last layer does not unless asked for; grouped convolutions are projected group by group.
* A budget of MACs is met by the largest rank ``r`` that the formula gives, by bisection.
* The search looks for the layers' shares of one budget, not for ranks and their MACs together, and judges the model as it came
  with its weights truncated (rectified, no transfer) and its statistics measured anew on few samples, by the loss on the
  held-out ones; the paper trains for some epochs in every trial.
* After the last projection the statistics of BatchNormalization can be measured anew (``reestimate``), and are kept if better.
* Training may start from the trained model, or learn from it without labels; as published it starts afresh, on labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import onnx_ir as ir
import torch
from torch import Tensor

from shrinkc.api import RuntimeAdapter
from shrinkc.budget import Budget, parse
from shrinkc.decomposing import decomposed, low_rank_layers, scope_without
from shrinkc.errors import RecipeError, TrainingError
from shrinkc.evidence.data import fixed_batch
from shrinkc.evidence.sites import Site
from shrinkc.factorable import Scope, epsilon_of, layers_of, normalisation_behind
from shrinkc.ir import stored_array
from shrinkc.rank_choice import RankCost, Ranks, at_shares, by_name, within
from shrinkc.rank_search import Weights, searched
from shrinkc.shapes import Shadow, input_shapes
from shrinkc.training import state
from shrinkc.training.context import Context
from shrinkc.training.fresh import StartAfresh
from shrinkc.training.interfaces import Phase, Plugin, Signal
from shrinkc.training.lesson import Lesson
from shrinkc.training.phases import Train, measure_statistics
from shrinkc.training.preparing import has_enough_to_normalise
from shrinkc.training.ranges import COUNT, NOT_NEGATIVE, SHARE, check_ranges
from shrinkc.training.rates import schedule_of

CHOICES = ("uniform", "manual", "searched")
STARTS = ("trained", "fresh")
DEFAULT_MACS = "50%"
RANKS = "ranks"
"""Phase whose record says which layer gets which rank."""

PROJECTED = "last projection"
"""Phase whose record says that all ranks are what they were to be."""

LEAST_GAIN = 1e-3
"""Gain, as a share of the layer's largest, that smaller ones are raised to."""

SEARCHED_SAMPLES = 256
"""That statistics are measured on in a trial."""


@dataclass(frozen=True)
class Projection:
    """Projection of a matrix to a rank.

    Attributes
    ----------
    transfers : bool
        Energy of what goes is given to what stays.
    reduction : float
        What singular values above the rank are multiplied by, ``f``.
    """

    transfers: bool = True
    reduction: float = 0.0

    def of(self, matrix: Tensor, rank: int, gain: Tensor | None = None) -> Tensor:
        """The nearest matrix of that rank behind the gain, with the energy that it had there.

        Parameters
        ----------
        matrix : Tensor of shape (groups, outputs, columns)
        rank : int
            Of every group.
        gain : Tensor of shape (groups, outputs), optional
            What the outputs are multiplied by afterwards; no zeros.

        Returns
        -------
        Tensor of the same shape, float64, on the processor.
        """
        exact = matrix.detach().cpu().double()
        if rank >= min(exact.shape[1:]):
            return exact
        column = torch.ones(exact.shape[:2], dtype=torch.float64) if gain is None else gain.cpu().double()
        left, values, right = torch.linalg.svd(exact * column[..., None], full_matrices=False)
        found: Tensor = (left * self._new(values, rank)[:, None]) @ right / column[..., None]
        return found

    def _new(self, values: Tensor, rank: int) -> Tensor:
        kept, lost = values[:, :rank], values[:, rank:] * self.reduction
        if self.transfers:
            left, energy = kept.square().sum(1, keepdim=True), values.square().sum(1, keepdim=True)
            wanted = energy - lost.square().sum(1, keepdim=True)
            kept = kept * torch.where(left > 0, wanted / left, torch.ones_like(left)).sqrt()
        return torch.cat([kept, lost], 1)


@dataclass(frozen=True, eq=False)
class LowRankWeight:
    """A stored weight that is projected, and the normalisation behind its layer.

    Attributes
    ----------
    site : Site
    rank : int
    normalisation : ir.Node or None
    """

    site: Site
    rank: int
    normalisation: ir.Node | None

    @torch.no_grad()
    def project(self, context: Context, projection: Projection) -> None:
        """Project the live weight in place.

        Raises
        ------
        TrainingError
            It is not finite any more.
        """
        stored = context.tensors[self.site.weight.name or ""]
        if not torch.isfinite(stored).all():
            raise TrainingError("a weight is not finite", where=self.site.name, hint="a lower learning rate, or clip")
        matrix = projection.of(self.matrix(stored), self.rank, self.gain(context))
        stored.copy_(self._stored(matrix, stored.shape))

    def matrix(self, stored: Tensor) -> Tensor:
        """A tensor laid out as the weight is stored, as (groups, outputs, columns)."""
        site = self.site
        seen = stored if site.places is None else stored.reshape(-1)[torch.from_numpy(site.places)]
        return (seen.T if site.is_transposed else seen).reshape(site.groups, site.outputs // site.groups, -1)

    def _stored(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of :meth:`matrix`."""
        site = self.site
        seen = matrix.reshape(site.outputs, -1)
        seen = seen.T if site.is_transposed else seen
        if site.places is None:
            return seen.reshape(shape)
        flat = torch.empty(seen.numel(), dtype=seen.dtype)
        flat[torch.from_numpy(site.places.reshape(-1))] = seen.reshape(-1)
        return flat.reshape(shape)

    def gain(self, context: Context) -> Tensor | None:
        """What the normalisation multiplies the layer's outputs by, kept away from zero; shape (groups, outputs)."""
        if self.normalisation is None:
            return None
        scale, variance = (_live(context, self.normalisation.inputs[index]) for index in (1, 4))
        gain = scale / (variance + epsilon_of(self.normalisation)).sqrt()
        floor = LEAST_GAIN * float(gain.abs().max()) or 1.0
        away = torch.where(gain < 0, -1.0, 1.0) * gain.abs().clamp_min(floor)
        return away.reshape(self.site.groups, -1)


def _live(context: Context, value: ir.Value | None) -> Tensor:
    """A stored vector as training has it now, float64 on the processor."""
    if value is None:
        raise RecipeError("a normalisation lost an input", where="lrpet")
    held = context.tensors.get(value.name or "")
    found = torch.from_numpy(stored_array(value)) if held is None else held
    return found.detach().cpu().double()


def low_rank_weights(sites: Iterable[Site], ranks: Mapping[str, int], rectifies: bool) -> list[LowRankWeight]:
    """Weights of the layers that have a rank."""
    return [
        LowRankWeight(site, ranks[site.name], normalisation_behind(site) if rectifies else None)
        for site in sites
        if site.name in ranks
    ]


def sizes_in(context: Context) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's inputs, as the data are."""
    batch = fixed_batch(context.model) or 1
    given = {name: (batch, *tensor.shape[1:]) for name, tensor in context.feeder.samples.inputs.items()}
    return input_shapes(context.model, given)


def ranks_in(context: Context) -> Ranks:
    """Ranks that were chosen."""
    return next(dict(record[RANKS]) for record in reversed(context.records) if record["phase"] == RANKS)


class Projecting(Plugin):
    """Projects every so many steps, and once more at the end.

    Parameters
    ----------
    projection : Projection
    rectifies : bool
    every : int
        Steps; 0 for once per epoch.
    """

    def __init__(self, projection: Projection, rectifies: bool, every: int) -> None:
        self._projection, self._rectifies, self._every = projection, rectifies, every
        self._found: list[LowRankWeight] | None = None

    def after_step(self, context: Context) -> Signal:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        every = self._every or context.feeder.order(context.cycle).steps_per_epoch
        if context.step % every == 0:
            self._project(context, self._projection)
        return Signal.GO_ON

    def on_cycle_end(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        self._project(context, Projection(self._projection.transfers))
        context.records.append({"phase": PROJECTED, "layers": len(self._found or ())})

    def _project(self, context: Context, projection: Projection) -> None:
        if self._found is None:
            sites = layers_of(context.model, Shadow.of(context.model, sizes_in(context)))
            self._found = low_rank_weights(sites, ranks_in(context), self._rectifies)
        for weight in self._found:
            weight.project(context, projection)
        context.world.same_([context.tensors[weight.site.weight.name or ""] for weight in self._found])


@dataclass(frozen=True)
class ChooseRanks:
    """Say which layer gets which rank; of the model as it came, so that fresh weights are drawn after it."""

    method: Lrpet
    runtime: RuntimeAdapter

    def run(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Phase`."""
        found = low_rank_layers(context.model, sizes_in(context), self.method.scope(context), self.runtime)
        trained = {name: one for name, one in found.candidates.items() if one.site.weight.name in context.tensors}
        if not trained:
            reasons = ", ".join(f"{layer.layer} ({layer.reason})" for layer in found.found.whole[:3])
            raise RecipeError("no layer can be of a lower rank", where=self.method.name, because=reasons)
        ranks, told = self.method.chosen(RankCost(trained, found.cost.dense, self.method.round_to), context)
        context.records.append({"phase": RANKS, RANKS: _agreed(ranks, trained, context), "choice": self.method.choice, **told})


def _agreed(ranks: Ranks, layers: Iterable[str], context: Context) -> Ranks:
    """Ranks of the first process: an interrupt may reach others in another trial of a search."""
    names = list(layers)
    held = torch.tensor([ranks.get(name, 0) for name in names], device=context.settings.device)
    context.world.same_([held])
    return {name: rank for name, rank in zip(names, held.tolist(), strict=True) if rank}


@dataclass(frozen=True)
class Lrpet:
    """Settings of the method.

    Attributes
    ----------
    choice : str
        Of the ranks: ``uniform``, ``manual`` or ``searched``.
    macs : str
        Budget that ``uniform`` and ``searched`` ranks meet, ``50%`` or absolute; 50 % where nothing is said.
    remove : float
        In place of a budget, share of every layer's full rank that goes, as published.
    ranks : mapping of str to int
        For ``manual``: rank by shell pattern of layers, nodes or weights; others stay whole.
    every : int
        Steps from one projection to the next, 0 for once per epoch.
    start : str
        ``trained`` goes on from the model as it came, ``fresh`` draws all weights anew.
    energy_transfer, rectification : bool
    reduction : float
        What singular values above the rank are multiplied by in all projections but the last.
    keep_first, keep_last : bool
        Leave the first or last layer alone.
    exclude : tuple of str
        Shell patterns of layers to leave alone.
    trials : int
        Of a search.
    round_to : int
        What ranks that are not given by name are a multiple of (of grouped convolutions, those of all groups together).
    """

    name: ClassVar[str] = "lrpet"
    keeps_best: ClassVar[bool] = False

    choice: str = "uniform"
    macs: str = ""
    remove: float = 0.0
    ranks: Mapping[str, int] = field(default_factory=dict)
    every: int = 0
    start: str = "trained"
    energy_transfer: bool = True
    rectification: bool = True
    reduction: float = 0.0
    keep_first: bool = False
    keep_last: bool = True
    exclude: tuple[str, ...] = ()
    trials: int = 20
    round_to: int = 1

    def __post_init__(self) -> None:
        """Check settings.

        Raises
        ------
        RecipeError
            One is out of its range, contradicts another, or would have no effect.
        """
        for name, value, known in (("choice", self.choice, CHOICES), ("start", self.start, STARTS)):
            if value not in known:
                raise RecipeError("no such choice", where=f"{name} = {value}", hint=f"known: {', '.join(known)}")
        check_ranges(self, remove=SHARE, reduction=SHARE, every=NOT_NEGATIVE, trials=COUNT, round_to=COUNT)
        if self.macs and self.remove:
            raise RecipeError(
                "two answers to how much goes", where="macs, remove", hint="give one of them, or `--set remove=0`"
            )
        if (self.choice == "manual") != bool(self.ranks):
            raise RecipeError(
                "ranks by name go together with the manual choice",
                where="choice, ranks",
                hint="--set choice=manual --set 'ranks={\"conv1*\" = 12}'",
            )
        if self.choice == "manual" and (self.macs or self.remove or self.round_to > 1):
            raise RecipeError("would have no effect: ranks are given by name", where="macs, remove, round_to")
        if self.macs:
            parse("macs", self.macs)

    def rewritten(self, lesson: Lesson) -> Projected:
        """See :class:`shrinkc.training.interfaces.Rewriting`: what is trained is the graph as it came."""
        return Projected(lesson, self)

    def scope(self, context: Context) -> Scope:
        """What may be of a lower rank."""
        ends = {view.node for view in context.views if (self.keep_first and view.is_first) or (self.keep_last and view.is_last)}
        return scope_without((*self.exclude, *_literal(ends)))

    def chosen(self, cost: RankCost, context: Context) -> tuple[Ranks, dict[str, Any]]:
        """Ranks by layer, and what is told of how they were found.

        Raises
        ------
        BudgetError
            No ranks meet the budget.
        RecipeError
            Ranks by name do not fit the model.
        RuntimeUnavailable
            A search needs optuna.
        """
        if self.choice == "manual":
            return by_name(cost, self.ranks), {}
        alike = dict.fromkeys(cost.candidates, 1.0)
        budget = parse("macs", self.macs or DEFAULT_MACS)
        plain = at_shares(cost, dict.fromkeys(alike, 1 - self.remove)) if self.remove else within(cost, alike, budget)
        if self.choice == "uniform":
            return plain, {}
        if self.remove:
            budget = Budget("macs", cost.of(plain).macs, is_relative=False)
        return self._searched(cost, budget, context)

    def _searched(self, cost: RankCost, budget: Budget, context: Context) -> tuple[Ranks, dict[str, Any]]:
        sites = [candidate.site for candidate in cost.candidates.values()]
        losses: list[float] = []
        with context.progress.counting("searching ranks") as say:

            def loss(weights: Weights) -> float:
                truncated = low_rank_weights(sites, within(cost, weights, budget), self.rectification)
                losses.append(truncated_loss(context, truncated))
                say(len(losses) / self.trials, f"loss {min(losses):.4g}")
                return losses[-1]

            found = searched(list(cost.candidates), loss, self.trials, context.settings.seed, lambda: _is_over(context))
        return within(cost, found.weights, budget), {"trials": list(found.losses)}


@dataclass(frozen=True, eq=False)
class Projected:
    """The method at work on a model.

    Attributes
    ----------
    lesson : Lesson
    options : Lrpet
    """

    lesson: Lesson
    options: Lrpet

    def phases(self, context: Context) -> Sequence[Phase]:
        """See :class:`shrinkc.training.interfaces.Rewritten`.

        Raises
        ------
        RecipeError
            Weights are to be averaged, which would not be of low rank.
        """
        settings, options = context.settings, self.options
        if settings.ema or settings.swa:
            raise RecipeError("averages of the weights are not of low rank", where="ema, swa", hint="--set ema=0 --set swa=0")
        plugin = Projecting(Projection(options.energy_transfer, options.reduction), options.rectification, options.every)
        training = Train(settings.length(), schedule_of(settings, context), [plugin], keeps_best=False)
        afresh = [StartAfresh()] if options.start == "fresh" else []
        return [ChooseRanks(options, self.lesson.runtime), *afresh, training]

    def finished(self, context: Context, model: ir.Model) -> ir.Model:
        """See :class:`shrinkc.training.interfaces.Rewritten`: layers give way to their factors, if training came to its end.

        Raises
        ------
        VerificationError
            That changes what the model computes.
        """
        if all(record["phase"] != PROJECTED for record in context.records):
            return model
        shapes, scope = sizes_in(context), self.options.scope(context)
        found = decomposed(model, shapes, scope, ranks_in(context), self.lesson.runtime)
        context.records.append(found.record)
        return found.model


def _is_over(context: Context) -> bool:
    """Whether somebody wants it to end; of all processes the first is asked, so that none searches on alone."""
    return context.world.agreed([float(context.interrupts.requested)], context.settings.device)[0] > 0


def _literal(names: Iterable[str]) -> list[str]:
    """Shell patterns that fit these very names."""
    return ["".join(f"[{letter}]" if letter in "*?[" else letter for letter in name) for name in sorted(names)]


def truncated_loss(context: Context, weights: Sequence[LowRankWeight]) -> float:
    """Loss on the held-out samples with weights truncated to their ranks; nothing stays changed."""
    before = state.copied(context.tensors)
    try:
        for weight in weights:
            weight.project(context, Projection(transfers=False))
        if context.normalizations and has_enough_to_normalise(context.model, context.feeder.unit):
            measure_statistics(context, SEARCHED_SAMPLES)
        return context.evaluate().loss
    finally:
        context.put(before)
