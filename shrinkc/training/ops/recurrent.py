"""Recurrent layers: LSTM, GRU, RNN, step by step, in one direction or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from shrinkc.training.ops.call import Call, Function, Table

op = Table()
OPS = op.ops

Activation = Callable[[Tensor], Tensor]

WITH_BETA = frozenset({"affine", "scaledtanh", "hardsigmoid"})
WITH_ALPHA = WITH_BETA | {"leakyrelu", "thresholdedrelu", "elu"}
"""Activations that take the next number of ``activation_alpha``, or of ``activation_beta``; the others take none."""


def activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    """Activation by its ONNX name, in any case."""
    a, b = alpha, beta
    table: dict[str, Activation] = {
        "relu": torch.relu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "affine": lambda x: (1.0 if a is None else a) * x + (0.0 if b is None else b),
        "leakyrelu": lambda x: F.leaky_relu(x, 0.01 if a is None else a),
        "thresholdedrelu": lambda x: torch.where(x > (1.0 if a is None else a), x, torch.zeros_like(x)),
        "scaledtanh": lambda x: (1.0 if a is None else a) * torch.tanh((1.0 if b is None else b) * x),
        "hardsigmoid": lambda x: torch.clamp((0.2 if a is None else a) * x + (0.5 if b is None else b), 0, 1),
        "elu": lambda x: F.elu(x, 1.0 if a is None else a),
        "softsign": F.softsign,
        "softplus": F.softplus,
    }
    return table[name.lower()]


@dataclass(frozen=True)
class Cell:
    """What a recurrent node says, besides its weights."""

    hidden: int
    directions: tuple[str, ...]
    activations: tuple[tuple[Activation, ...], ...]
    clip: float
    is_batch_first: bool
    resets_after: bool
    couples: bool

    @classmethod
    def of(cls, call: Call, defaults: Sequence[str]) -> Cell:
        """Attributes of a node; ``defaults`` are the activations of one direction."""
        direction = call.text("direction", "forward")
        directions = ("forward", "reverse") if direction == "bidirectional" else (direction,)
        names = call.texts("activations") or [*defaults] * len(directions)
        alphas, betas = iter(call.numbers("activation_alpha") or []), iter(call.numbers("activation_beta") or [])
        every = [
            activation(
                name,
                next(alphas, None) if name.lower() in WITH_ALPHA else None,
                next(betas, None) if name.lower() in WITH_BETA else None,
            )
            for name in names
        ]
        n = len(defaults)
        return cls(
            call.integer("hidden_size"),
            directions,
            tuple(tuple(every[i * n : (i + 1) * n]) for i in range(len(directions))),
            call.number("clip"),
            bool(call.integer("layout")),
            bool(call.integer("linear_before_reset")),
            bool(call.integer("input_forget")),
        )

    def clipped(self, x: Tensor) -> Tensor:
        """``x`` within the clip, if there is one."""
        return x.clamp(-self.clip, self.clip) if self.clip else x


States = tuple[Tensor, ...]
StepFunction = Callable[[Tensor, States], States]


def _over_time(
    x: Tensor, states: States, step: StepFunction, lengths: Tensor | None, is_reverse: bool
) -> tuple[Tensor, States]:
    """Hidden states of every step, and the last states; a sample that is over keeps its states and gives zeros."""
    outputs: list[Tensor] = [x] * x.shape[0]
    for t in reversed(range(x.shape[0])) if is_reverse else range(x.shape[0]):
        new = step(x[t], states)
        if lengths is None:
            states, outputs[t] = new, new[0]
            continue
        goes_on = (lengths > t)[:, None]
        states = tuple(torch.where(goes_on, fresh, old) for fresh, old in zip(new, states, strict=True))
        outputs[t] = torch.where(goes_on, new[0], torch.zeros_like(new[0]))
    return torch.stack(outputs), states


def _run(
    cell: Cell, x: Tensor, initial: Sequence[Tensor | None], lengths: Tensor | None, make: Callable[[int], StepFunction]
) -> tuple[Tensor, ...]:
    """All directions; outputs laid out as the node's layout says."""
    x = x.transpose(0, 1) if cell.is_batch_first else x
    lengths = None if lengths is None else lengths.to(x.device)
    ys, lasts = [], []
    for d, direction in enumerate(cell.directions):
        zero = x.new_zeros(x.shape[1], cell.hidden)
        states = tuple(zero if state is None else state.select(1 if cell.is_batch_first else 0, d) for state in initial)
        y, last = _over_time(x, states, make(d), lengths, direction == "reverse")
        ys.append(y)
        lasts.append(last)
    y = torch.stack(ys, 1)
    ends = [torch.stack(parts) for parts in zip(*lasts, strict=True)]
    if cell.is_batch_first:
        return y.permute(2, 0, 1, 3), *(end.transpose(0, 1) for end in ends)
    return y, *ends


def _biases(b: Tensor | None, d: int, gates: int, hidden: int, like: Tensor) -> tuple[Tensor, Tensor]:
    if b is None:
        zero = like.new_zeros(gates * hidden)
        return zero, zero
    return b[d, : gates * hidden], b[d, gates * hidden :]


@op("RNN")
def rnn(call: Call) -> Function:
    """The state is f(W x + R h + b)."""
    cell = Cell.of(call, ["Tanh"])

    def run(
        x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, h: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        def make(d: int) -> StepFunction:
            wb, rb = _biases(b, d, 1, cell.hidden, x)
            (f,) = cell.activations[d]
            return lambda at, states: (f(cell.clipped(F.linear(at, w[d], wb) + F.linear(states[0], r[d], rb))),)

        return _run(cell, x, [h], lengths, make)

    return run


@op("GRU")
def gru(call: Call) -> Function:
    """Update, reset and hidden gates; the reset before or after the recurrent product."""
    cell = Cell.of(call, ["Sigmoid", "Tanh"])

    def run(
        x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None, h: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        return _run(cell, x, [h], lengths, lambda d: _gru_step(cell, d, w[d], r[d], _biases(b, d, 3, cell.hidden, x)))

    return run


def _gru_step(cell: Cell, d: int, w: Tensor, r: Tensor, biases: tuple[Tensor, Tensor]) -> StepFunction:
    (wb, rb), n, (f, g) = biases, cell.hidden, cell.activations[d]

    def step(at: Tensor, states: States) -> States:
        (h,) = states
        xs = F.linear(at, w, wb)
        gates = f(cell.clipped(xs[:, : 2 * n] + F.linear(h, r[: 2 * n], rb[: 2 * n])))
        update, reset = gates[:, :n], gates[:, n:]
        if cell.resets_after:
            inner = reset * F.linear(h, r[2 * n :], rb[2 * n :])
        else:
            inner = F.linear(reset * h, r[2 * n :], rb[2 * n :])
        hidden = g(cell.clipped(xs[:, 2 * n :] + inner))
        return ((1 - update) * hidden + update * h,)

    return step


@op("LSTM")
def lstm(call: Call) -> Function:
    """Input, output, forget and cell gates, with peepholes if they are given."""
    cell = Cell.of(call, ["Sigmoid", "Tanh", "Tanh"])

    def run(
        x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
        h: Tensor | None = None, c: Tensor | None = None, p: Tensor | None = None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        def make(d: int) -> StepFunction:
            return _lstm_step(cell, d, w[d], r[d], _biases(b, d, 4, cell.hidden, x), None if p is None else p[d])

        return _run(cell, x, [h, c], lengths, make)

    return run


def _lstm_step(cell: Cell, d: int, w: Tensor, r: Tensor, biases: tuple[Tensor, Tensor], peep: Tensor | None) -> StepFunction:
    bias, n, (f, g, k) = biases[0] + biases[1], cell.hidden, cell.activations[d]

    def step(at: Tensor, states: States) -> States:
        h, c = states
        i, o, forget, new = torch.split(F.linear(at, w, bias) + F.linear(h, r), n, -1)
        pi, po, pf = (0, 0, 0) if peep is None else torch.split(peep, n)
        i = f(cell.clipped(i + pi * c))
        forget = 1 - i if cell.couples else f(cell.clipped(forget + pf * c))
        c = forget * c + i * g(cell.clipped(new))
        o = f(cell.clipped(o + po * c))
        return o * k(c), c

    return step
