"""Layers as products of two factors with a gate on every component; the gates learn which components a size can hold.

Wang, Wohlwend, Lei. Structured Pruning of Large Language Models. EMNLP 2020 (arXiv 1910.04732; FLOP), sections 3.2 (``W = P
diag(z) Q``, hard-concrete gates) and 3.3 (augmented Lagrangian ``l1 (s - t) + l2 (s - t)^2``, ascended in ``l1`` and ``l2``,
the target ``t`` moving linearly), with the distribution of their program: stretched to (-0.1, 1.1), temperature 1,
``log_alpha`` drawn with deviation 0.01.  Differs: factors are those of the trained layer at full rank, convolutions
too; a gate counts from what it begins with, so that training begins at the layer as it was, and the draws are sorted, so that
the weakest components begin with the lowest gates; the size is that of the whole model as it will be written, where a layer
above its break-even rank costs what it costs whole (the gradient is that of its components all the same); one component at
least stays in a layer; the gates are settled before the end, all moved alike by what their expected size is still off the
target, and the factors then trained without noise; ``l2`` is bounded; gates begin nearly open (theirs begin at
``initial = 0.5``, for training from scratch: a trained network forgets under so much noise); layers that cannot be factorised
have no gates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import onnx_ir as ir
import torch

from shrinkc.analysis.cost import Cost
from shrinkc.budget import parse
from shrinkc.errors import BudgetError, RecipeError
from shrinkc.open_factors import OpenLayer, OpenModel
from shrinkc.rank_gates import Gates, Size
from shrinkc.training.checkpoint import named, under
from shrinkc.training.context import Context
from shrinkc.training.hard_concrete import HardConcrete
from shrinkc.training.interfaces import Phase, Plugin, Signal, Values
from shrinkc.training.lesson import Lesson
from shrinkc.training.masks import MaskSet
from shrinkc.training.optimizers import Optimizer
from shrinkc.training.phases import Train
from shrinkc.training.ranges import INSIDE, POSITIVE, check_ranges
from shrinkc.training.rates import schedule_of
from shrinkc.training.samples import Batch

LABELS = {"macs": "MACs", "parameters": "Parameters"}

TOLERANCE = 0.02
"""How far above its target a size still counts as reached, as a share of the original; theirs for keeping a checkpoint."""


class Constrained(Plugin):
    """Draws the gates, adds the augmented Lagrangian of the size, descends in the gates and ascends in the multipliers.

    Parameters
    ----------
    gates : Gates
    size : Size
    options : Flop
    context : Context
    """

    def __init__(self, gates: Gates, size: Size, options: Flop, context: Context) -> None:
        self._gates, self._size, self._options = gates, size, options
        settings = replace(context.settings, optimizer="adamw", momentum=0.9)
        zeros = {name: torch.zeros(1, device=settings.device) for name in ("linear", "squared")}
        self.multipliers = {name: torch.nn.Parameter(zero) for name, zero in zeros.items()}
        self._done, self._stride = 0.0, 0.0
        self._descent, self._ascent = Optimizer(gates.log_alpha, settings), Optimizer(self.multipliers, settings)

    def on_cycle_start(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        names = [name for layer in self._gates.layers for name in (layer.first, layer.second)]
        context.masks = MaskSet.dense({name: context.tensors[name] for name in names})

    def on_batch(self, context: Context, batch: Batch) -> Batch:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        self._gates.draw(context.cycle, context.step)
        self._descent.forget_gradients()
        self._ascent.forget_gradients()
        return batch

    def target(self) -> float:
        """Share that is wanted now."""
        return 1 - (1 - self._options.target) * min(1.0, self._done / self._options.ramp)

    def excess(self) -> torch.Tensor:
        """Expected share above the target of now; scalar, differentiable."""
        return self._size.expected(self._gates.components()) - self.target()

    def loss(self, context: Context, outputs: Values, batch: Batch) -> torch.Tensor:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        excess = self.excess()
        return (self.multipliers["linear"] * excess + self.multipliers["squared"] * excess.square()).sum()

    @torch.no_grad()
    def on_grad(self, context: Context, gradients: Values) -> None:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        own = [*self._gates.log_alpha.values(), *self.multipliers.values()]
        context.world.sum_([parameter.grad for parameter in own if parameter.grad is not None])
        for multiplier in self.multipliers.values():
            if multiplier.grad is not None:
                multiplier.grad.neg_()  # the optimizer descends; multipliers ascend
        self._descent.step(self._options.gate_rate * self._stride)
        self._ascent.step(self._options.multiplier_rate * self._stride)
        self.multipliers["squared"].clamp_(0.0, self._options.most_squared)

    def after_step(self, context: Context) -> Signal:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        self._gates.settle()
        self._done, self._stride = context.done, max(0.0, context.done - self._done)
        return Signal.GO_ON

    @torch.no_grad()
    def on_cycle_end(self, context: Context) -> None:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        self._gates.settle()
        components = self._gates.components()
        expected = float(self._size.expected(components))
        if not context.stopped:
            self._gates.close_in(self._size, self._options.target)
        self._gates.fold(context)
        context.records.append(
            {
                "phase": "gates",
                "quantity": self._size.quantity,
                "target": self._options.target,
                "expected": expected,
                "offset": self._gates.offset,
                "components": {name: float(count) for name, count in components.items()},
                "multipliers": {name: float(value) for name, value in self.multipliers.items()},
            }
        )

    def state(self) -> dict[str, torch.Tensor]:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        return {
            **named("gate/", self._gates.log_alpha),
            **named("multiplier/", self.multipliers),
            **named("descent/", self._descent.state()),
            **named("ascent/", self._ascent.state()),
        }

    def facts(self) -> dict[str, object]:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        with torch.no_grad():
            expected = float(self._size.expected(self._gates.components()))
        return {"done": self._done, "stride": self._stride, "said": f"{expected:.1%} of the {self._size.quantity} expected"}

    @torch.no_grad()
    def restore(self, tensors: Values, facts: Mapping[str, Any]) -> None:
        """See :class:`shrinkc.training.interfaces.Plugin`."""
        for prefix, parameters in (("gate/", self._gates.log_alpha), ("multiplier/", self.multipliers)):
            for name, value in under(prefix, tensors).items():
                parameters[name].copy_(value)
        self._done, self._stride = float(facts["done"]), float(facts["stride"])
        self._descent.restore(under("descent/", tensors))
        self._ascent.restore(under("ascent/", tensors))


@dataclass(frozen=True)
class Flop:
    """Settings of the method.

    Attributes
    ----------
    target : float
        Share of the quantity that shall be left of the whole model.
    quantity : str
        ``macs`` or ``parameters``.
    macs : str
        Budget of MACs, ``50%`` or absolute, in the place of both.
    ramp : float
        Share of the gates' phase in which the target falls from 1.
    settling : float
        Share of the budget, at the end, in which the gates no longer move and the factors train without noise.
    initial : float
        Gates begin around ``log((1 - initial) / initial)``; 0.5 where nothing is to be remembered.
    gate_temperature : float
        Of the distribution of the gates.
    gate_rate, multiplier_rate : float
        Learning rates of gates and multipliers, by Adam, summed over the steps of the phase: a short training takes larger
        steps, so that it gets as far as a long one.
    most_squared : float
        Bound of the multiplier of the squared excess, which only grows.
    exclude : tuple of str
        Patterns of names of nodes and tensors that are left alone.
    """

    name: ClassVar[str] = "flop"

    target: float = 0.5
    quantity: str = "macs"
    macs: str = ""
    ramp: float = 0.5
    settling: float = 0.3
    initial: float = 0.05
    gate_temperature: float = 1.0
    gate_rate: float = 25.0
    multiplier_rate: float = 25.0
    most_squared: float = 100.0
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check settings.

        Raises
        ------
        RecipeError
            One is out of its range.
        """
        check_ranges(self, **dict.fromkeys(("target", "ramp", "settling", "initial"), INSIDE))
        rates = ("gate_temperature", "gate_rate", "multiplier_rate", "most_squared")
        check_ranges(self, **dict.fromkeys(rates, POSITIVE))
        if self.quantity not in LABELS:
            raise RecipeError("no such quantity", where=self.quantity, hint=f"known: {', '.join(LABELS)}")
        if self.macs and (self.quantity != "macs" or self.target != Flop.target):
            raise RecipeError("two answers to how much goes", where="macs, target, quantity", hint="give one of them")
        if self.macs:
            parse("macs", self.macs)

    def of(self, cost: Cost) -> Flop:
        """The same with a budget of MACs as a target, for a model that costs so much.

        Raises
        ------
        RecipeError
            The budget is no less than the model takes.
        """
        return replace(self, macs="", target=parse("macs", self.macs).limit(cost) / cost.macs) if self.macs else self

    def rewritten(self, lesson: Lesson) -> Gated:
        """See :class:`shrinkc.training.interfaces.Rewriting`.

        Raises
        ------
        RecipeError
            The model has no layer that can be factorised.
        BudgetError
            Layers without gates cost more than the target.
        """
        opened = OpenModel.of(lesson.student, lesson.data, lesson.runtime, self.exclude)
        if not opened.layers:
            raise RecipeError("no layer of the model can be factorised", where=self.name)
        options = self.of(opened.before)
        size = Size(opened.layers, options.quantity, getattr(opened.before, options.quantity))
        if size.least > options.target:
            raise BudgetError(
                "the target is out of reach",
                where=f"target = {options.target:.3g}",
                because=f"{size.least:.1%} of the {options.quantity} stay with one component a layer",
            )
        return Gated(replace(lesson, student=opened.model, given=lesson.given or lesson.student), options, size, opened)


@dataclass(frozen=True, eq=False)
class Gated:
    """The method at work on a model whose layers lie open.

    Attributes
    ----------
    lesson : Lesson
    options : Flop
    size : Size
    opened : OpenModel
    """

    lesson: Lesson
    options: Flop
    size: Size
    opened: OpenModel

    def phases(self, context: Context) -> Sequence[Phase]:
        """See :class:`shrinkc.training.interfaces.Rewritten`.

        Raises
        ------
        RecipeError
            An average of the weights is asked for, which would not know the gates.
        """
        settings, options = context.settings, self.options
        if settings.ema or settings.swa:
            raise RecipeError("averages of factors do not know their gates", where="ema, swa", hint="--set ema=0 --set swa=0")
        family = HardConcrete(options.gate_temperature)
        mean = math.log(1 - options.initial) - math.log(options.initial)
        gates = Gates(self.size.layers, family, mean, settings.seed, settings.device)
        per_epoch, length = context.feeder.order(0).steps_per_epoch, settings.length()
        gating, settling = length.split(1 - options.settling, per_epoch)
        first, until = gating.steps(per_epoch) or 0, length.steps(per_epoch)
        schedule, plugin = schedule_of(settings, context), Constrained(gates, self.size, options, context)
        return [
            Train(gating, schedule, [plugin], keeps_best=False, parametrization=gates, until=until),
            Train(settling, schedule, first=first, until=until),
        ]

    def finished(self, context: Context, model: ir.Model) -> ir.Model:
        """See :class:`shrinkc.training.interfaces.Rewritten`.

        Raises
        ------
        VerificationError
            The graph that comes out does not give what the one that was trained did.
        """
        kept = {layer.name: _kept(layer, context.masks).cpu().numpy() for layer in self.size.layers}
        ranks, cost = self.opened.close(model, kept, context.settings.seed)
        context.masks = MaskSet({})
        context.records.append(self._record(ranks, getattr(cost, self.options.quantity)))
        return model

    def _record(self, ranks: Mapping[str, int | None], after: int) -> dict[str, Any]:
        share, quantity = after / self.size.total, self.options.quantity
        is_met = share <= self.options.target + TOLERANCE
        return {
            "phase": "ranks",
            "ranks": {layer.name: {"rank": ranks[layer.name], "full_rank": layer.rank} for layer in self.size.layers},
            f"{quantity}_before": self.size.total,
            f"{quantity}_after": after,
            "share": share,
            "target": self.options.target,
            "is_met": is_met,
            "said": f"{LABELS[quantity]}: {self.size.total:,} before, {after:,} after ({share:.1%}), "
            f"target {self.options.target:.1%} {'met' if is_met else 'missed'}; "
            f"{sum(rank is not None for rank in ranks.values())} of {len(ranks)} layers factorised.",
        }


def _kept(layer: OpenLayer, masks: MaskSet) -> torch.Tensor:
    """Components that the masks keep, bool ``(rank,)``."""
    mask = masks.get(layer.second)
    if mask is None:
        return torch.ones(layer.rank, dtype=torch.bool)
    return mask.movedim(layer.second_axis, 0).reshape(layer.rank, -1)[:, 0]
