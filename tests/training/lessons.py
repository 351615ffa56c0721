"""Small models and data to train on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models.builder import Net
from onnx import helper

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.evidence.data import Data
from shrinkc.log import Silent
from shrinkc.training.checkpoint import Checkpoints
from shrinkc.training.context import Context
from shrinkc.training.distributed import World
from shrinkc.training.interrupts import Interrupts
from shrinkc.training.lesson import Lesson
from shrinkc.training.preparing import prepared
from shrinkc.training.settings import Settings, check
from shrinkc.training.trainer import Trainer

QUICK: Mapping[str, Any] = {"budget": "20steps", "batch": 16, "threads": 1, "warm_up": 0.0, "learning_rate": 0.05}


def mlp(width: int = 16, classes: int = 2, seed: int = 0) -> onnx.ModelProto:
    """Two inputs, one hidden layer, logits."""
    net = Net(seed=seed)
    x = net.input("x", ["N", 2])
    hidden = net.relu(
        net.op("Gemm", x, net.weight(width, 2, name="w1"), net.const(np.zeros(width, np.float32), "b1"), transB=1)
    )
    out = net.op(
        "Gemm", hidden, net.weight(classes, width, name="w2"), net.const(np.zeros(classes, np.float32), "b2"), transB=1
    )
    net.output(out)
    return net.model()


def convnet(seed: int = 0, width: int = 8) -> onnx.ModelProto:
    """Two convolutions with BatchNormalization on 1x8x8 images, then logits of three classes."""
    net = Net(seed=seed)
    x = net.input("image", ["N", 1, 8, 8])
    for inputs in (1, width):
        x = net.conv(x, inputs, width, bias=False)
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        place = len(net.initializers)
        parts = [net.const(ones, f"gain{place}"), net.const(zeros), net.const(zeros), net.const(ones)]
        x = net.relu(str(net.op("BatchNormalization", x, *parts)))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.output(net.op("Gemm", x, net.weight(3, width, name="head"), net.const(np.zeros(3, np.float32)), transB=1))
    return net.model()


def dropping(seed: int) -> onnx.ModelProto:
    """A network with a Dropout between its layers."""
    net = Net(seed=seed)
    x = net.op("Flatten", net.relu(net.conv(net.input("image", ["N", 1, 8, 8]), 1, 4)))
    x = net.op("Dropout", x, net.const(np.float32(0.5)))
    net.output(str(net.op("Gemm", x, net.weight(3, 256, name="head"), transB=1)))
    return net.model()


def in_constants(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with every stored tensor in a node."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in made.graph.initializer]
    del made.graph.initializer[:]
    nodes += list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def blobs(n: int = 128, seed: int = 0) -> Data:
    """Two classes, a line between them."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, 2)).astype(np.float32)
    return Data({"x": x}, (x[:, 0] + 0.5 * x[:, 1] > 0).astype(np.int64), "blobs")


def pictures(n: int = 64, seed: int = 0) -> Data:
    """Random images without labels."""
    return Data({"image": np.random.default_rng(seed).random((n, 1, 8, 8)).astype(np.float32)}, None, "pictures")


def loaded(proto: onnx.ModelProto, folder: Path, name: str = "m.onnx") -> ir.Model:
    """A model as the program reads it."""
    onnx.save(proto, str(folder / name))
    return shrinkc_ir.load(folder / name)


def lesson(student: ir.Model, data: Data, teacher: ir.Model | None = None) -> Lesson:
    """What is trained on what."""
    return Lesson(student, teacher, data, (), registry.load("runtimes", "onnxruntime-cpu")())


def settings(**given: Any) -> Settings:
    """Settings of a quick run."""
    return check(Settings(**{**QUICK, **given}))


def context(what: Lesson, checkpoint: Path | None = None, **given: Any) -> Context:
    """A context to train in."""
    return prepared(what, settings(**given), World(), Silent(), Interrupts(), checkpoint)


class Killed(BaseException):
    """What no handler catches."""


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on training is interrupted, as by Ctrl-C, in the middle of a step."""
    whole = Trainer.step

    def interrupted(self: Trainer) -> float:
        if self.context.step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(self)

    monkeypatch.setattr(Trainer, "step", interrupted)


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What runs inside dies before a step, counted over all phases; its checkpoint is written after every step."""
    whole = Trainer.step

    def dying(self: Trainer) -> float:
        if self.context.steps_done == step:
            raise Killed
        return whole(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", dying)
        patched.setattr(Checkpoints, "offer", lambda self, made: self.write(made()))
        with pytest.raises(Killed):
            yield
