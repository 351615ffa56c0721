"""The trainer: the one loop that all methods share.

Step order: ``on_batch``, forward with the effective weights, sum of the losses, backward, ``on_grad``, gradients masked,
optimizer unless a plugin replaces it, weights and optimizer state masked, ``after_step``, and after an epoch ``on_epoch_end``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from shrinkc.errors import DivergedError
from shrinkc.training.autocasting import autocast
from shrinkc.training.budget import Budget
from shrinkc.training.checkpoint import Checkpoint, named, under
from shrinkc.training.context import Context
from shrinkc.training.feeding import Feeder, moved
from shrinkc.training.interfaces import Parametrization, Plugin, Signal
from shrinkc.training.optimizers import Optimizer
from shrinkc.training.parametrization import Masked
from shrinkc.training.samples import Batch
from shrinkc.training.schedules import Schedule

Say = Callable[[float, str], None]
"""Told the share that is done and a few words."""

LEAST_STEPS_OF_A_TIME = 2

SETTLED = 0.5
"""Share of a phase after which statistics that settle do not change any more."""


@dataclass
class Clock:
    """How far a phase is: by steps where they are counted, else by time.

    Attributes
    ----------
    budget : Budget
    per_epoch : int
    elapsed : float
        Seconds so far, over all runs of the phase.
    """

    budget: Budget
    per_epoch: int
    elapsed: float = 0.0

    def steps(self, done: int) -> int:
        """Steps of the whole phase; for a time what the pace so far comes to."""
        counted = self.budget.steps(self.per_epoch)
        if counted is not None:
            return counted
        limit = self.budget.seconds or 0.0
        if done == 0 or self.elapsed <= 0:
            return max(LEAST_STEPS_OF_A_TIME, self.per_epoch)
        return max(done + (self.elapsed < limit), round(done * limit / self.elapsed))


@dataclass(eq=False)
class Trainer:
    """One training phase.

    Attributes
    ----------
    context : Context
    schedule : Schedule
        Of the learning rate.
    budget : Budget
    plugins : sequence of Plugin
    parametrization : Parametrization
    first, until : int
        For parts of a longer training: the step the schedule begins with, and its length in steps where that is known.
    """

    context: Context
    schedule: Schedule
    budget: Budget
    plugins: Sequence[Plugin] = ()
    parametrization: Parametrization = field(default_factory=Masked)
    first: int = 0
    until: int | None = None
    has_enough: bool = field(default=False, init=False)
    """A plugin ended the phase before its time; phases that come after it run."""

    def run(self) -> None:
        """Train until the budget is spent, a plugin has enough, or somebody interrupts.

        Raises
        ------
        TrainingError
            The loss is not finite, or memory is too small; the best weights so far are in the executor.
        """
        with self.context.fed_by(self._feeder()):
            self._run()

    def _feeder(self) -> Feeder:
        """Of the samples that the plugins make of those that were given."""
        samples = self.context.feeder.samples
        for plugin in self.plugins:
            samples = plugin.on_dataset(self.context, samples)
        return self.context.feeder.of(samples)

    def _run(self) -> None:
        context = self.context
        self._optimizer = Optimizer(context.executor.trainable(), context.settings)
        self._per_epoch = context.feeder.order(context.cycle).steps_per_epoch
        self._clock = Clock(self.budget, self._per_epoch)
        self._mean_loss, self._spent, self.has_enough = math.nan, 0.0, False
        context.parametrization = self.parametrization
        resumed = self._resume()
        with context.progress.counting(f"training ({context.settings.method})") as say:
            if not resumed:
                self._start()
            self._loop(say)
        for plugin in self.plugins:
            plugin.on_cycle_end(context)
        context.masks.apply(context.tensors)
        context.parametrization = Masked()
        context.cycle += 1

    def _start(self) -> None:
        started, self.context.step = self.budget.clock(), 0
        for plugin in self.plugins:
            plugin.on_cycle_start(self.context)
        self._spent += self.budget.clock() - started

    def _loop(self, say: Say) -> None:
        context = self.context
        while not (context.stopped or self.has_enough) and context.step < self._clock.steps(context.step):
            self._one(say)

    def _one(self, say: Say) -> None:
        started = self.budget.clock()
        context = self.context
        loss = self.step()
        self._mean_loss = loss if math.isnan(self._mean_loss) else 0.95 * self._mean_loss + 0.05 * loss
        steps = self._clock.steps(context.step)
        context.done = min(1.0, context.step / steps)
        signals = [plugin.after_step(context) for plugin in self.plugins]
        if context.step % self._per_epoch == 0:
            signals += [plugin.on_epoch_end(context) for plugin in self.plugins]
        self.has_enough = Signal.STOP in signals
        say(context.done, self._words())
        if context.world.is_main:
            if context.stopped:
                context.checkpoints.write(self.checkpoint())
            else:
                context.checkpoints.offer(self.checkpoint)
        self._spent += self.budget.clock() - started

    def _words(self) -> str:
        told = [f"loss {self._mean_loss:.4g}"]
        for plugin in self.plugins:
            told += [str(value) for value in (plugin.facts().get("said"),) if value]
        return ", ".join(told)

    def steps(self) -> int:
        """Steps of the whole phase, as far as is known."""
        return self._clock.steps(self.context.step)

    def step(self) -> float:
        """One optimizer step; the loss before it, over all processes."""
        context, settings = self.context, self.context.settings
        batch = moved(context.feeder.at(context.cycle, context.step), settings.device)
        for plugin in self.plugins:
            batch = plugin.on_batch(context, batch)
        self._optimizer.forget_gradients()
        loss = self._backward(batch)
        gradients = {
            name: parameter.grad for name, parameter in self._optimizer.parameters.items() if parameter.grad is not None
        }
        total = self._gathered(loss, list(gradients.values()))
        for plugin in self.plugins:
            plugin.on_grad(context, gradients)
        if not self.parametrization.is_dense:
            context.masks.apply(gradients)
        if settings.clip:
            torch.nn.utils.clip_grad_norm_(self._optimizer.parameters.values(), settings.clip)
        replaced = [plugin.replaces_step(context) for plugin in self.plugins]
        if not any(replaced):
            self._optimizer.step(self._rate())
        if not self.parametrization.is_dense:
            context.masks.apply(context.tensors)
            self._optimizer.mask(context.masks)
        context.step += 1
        context.steps_done += 1
        return total

    def _rate(self) -> float:
        step = self.context.step
        steps = self.until if self.until is not None else self.first + self._clock.steps(step)
        return self.schedule.value(self.first + step, steps)

    def _backward(self, batch: Batch) -> torch.Tensor:
        context = self.context
        context.executor.train()
        context.executor.normalizes = self._normalises_by_batch()
        total = torch.zeros((), dtype=torch.float32, device=context.settings.device)
        rows, size = context.feeder.rows(context.cycle)
        if context.feeder.unit is None:
            context.executor.draw_for(rows, size)
        for number, part in enumerate(batch.parts(context.feeder.unit), rows.start // (context.feeder.unit or size)):
            with autocast(context.settings), context.drawing("step", context.cycle, context.step, number):
                values = context.executor(part.inputs, weights=self._effective(), also=context.objective.inside)
            loss = context.objective(values, part)
            for plugin in self.plugins:
                term = plugin.loss(context, values, part)
                loss = loss if term is None else loss + term
            loss = loss if part.share == 1.0 else loss * part.share
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        context.executor.draw_for(range(0), 0)
        return total

    def _normalises_by_batch(self) -> bool:
        mode, step = self.context.settings.batch_norm, self.context.step
        return mode == "batch" or (mode == "settling" and step < SETTLED * self._clock.steps(step))

    def _effective(self) -> dict[str, torch.Tensor] | None:
        """Weights other than those that are trained, None if they are the same."""
        return self.context.effective(self._optimizer.parameters)

    def _gathered(self, loss: torch.Tensor, gradients: list[torch.Tensor]) -> float:
        """Sum gradients over the processes, and agree on the loss, the time and whether to stop."""
        context = self.context
        facts = torch.tensor(
            [float(loss), self._spent / context.world.size, float(context.interrupts.requested)],
            dtype=torch.float64,
        )
        if context.world.size > 1:
            facts = facts.to(context.settings.device, torch.float32)
            context.world.sum_([*gradients, facts])
        # Only what all processes know alike may decide when to end.
        self._clock.elapsed = float(facts[1])
        if not math.isfinite(float(facts[0])):
            raise DivergedError(
                "the loss is not finite",
                where=f"step {context.step}",
                because=f"loss {float(facts[0])}",
                hint="a lower learning rate, or a bound on the gradient (clip)",
            )
        if facts[2] > 0 and not context.stopped:
            context.stopped = "interrupted"
        return float(facts[0])

    def checkpoint(self) -> Checkpoint:
        """Everything that is needed to go on after this step."""
        tensors = named("optimizer/", self._optimizer.state())
        facts: dict[str, Any] = {"elapsed": self._clock.elapsed, "mean_loss": self._mean_loss, "plugins": []}
        facts["has_enough"] = self.has_enough
        for number, plugin in enumerate(self.plugins):
            tensors.update(named(f"plugin/{number}/", plugin.state()))
            facts["plugins"].append(plugin.facts())
        return self.context.checkpoint(tensors, facts)

    def _resume(self) -> bool:
        pending, self.context.pending = self.context.pending, None
        if pending is None:
            return False
        self._optimizer.restore(under("optimizer/", pending.tensors))
        self._spent, self._mean_loss = pending.facts["elapsed"], pending.facts["mean_loss"]
        self._clock.elapsed, self.has_enough = self._spent, bool(pending.facts["has_enough"])
        for number, (plugin, facts) in enumerate(zip(self.plugins, pending.facts["plugins"], strict=True)):
            plugin.restore(under(f"plugin/{number}/", pending.tensors), facts)
        return True
