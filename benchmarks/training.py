"""A training step through the executor against the same network written by hand in torch: CPU time and peak memory.

    python benchmarks/training.py                    # writes benchmarks/results/training.json
    python benchmarks/training.py --device cuda      # the same on a GPU; writes training_cuda.json

The network by hand is exported with its BatchNormalization kept; both start with the same weights and see the same batches.
Steps of the two (forward, backward, optimizer) alternate, so what else the machine does hits both; the ratio is the median over
the rounds of the ratio of two neighbouring steps.  Memory is the most that three steps add to the loaded network in tensors, in
a process of its own for each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Any

import processes
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shrinkc import ir as shrinkc_ir
from shrinkc.report import facts
from shrinkc.training.executor import Executor

TARGETS = {"step_ratio": 1.05, "memory_ratio": 1.05, "load_25m_s": 2.0}
PRECISIONS = ("fp32", "bf16")


class Basic(nn.Module):
    """Residual block of two 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.b = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.na, self.nb = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.short = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Block and shortcut."""
        y = self.nb(self.b(F.relu(self.na(self.a(x)))))
        return F.relu(y + (x if self.short is None else self.short(x)))


def resnet20() -> nn.Module:
    """He et al. 2016, for 32x32 images."""
    blocks: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    width = 16
    for outputs in (16, 32, 64):
        for index in range(3):
            blocks.append(Basic(width, outputs, 2 if outputs > width and index == 0 else 1))
            width = outputs
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Inverted(nn.Module):
    """Expansion, depthwise convolution, projection."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        widen = [] if expansion == 1 else [nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()]
        self.layers = nn.Sequential(
            *widen,
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Block, and the input where shapes agree."""
        y: Tensor = self.layers(x)
        return x + y if self.is_residual else y


def mobilenet_v2() -> nn.Module:
    """Sandler et al. 2018, for 32x32 images."""
    parts: list[nn.Module] = [nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    width = 32
    plan = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, outputs, count, stride in plan:
        for index in range(count):
            parts.append(Inverted(width, outputs, stride if index == 0 else 1, expansion))
            width = outputs
    parts += [nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(1280, 10))


class Block(nn.Module):
    """Attention and MLP with norms before them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.na, self.nb = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Attention written out, as exporters write it."""
        n, length, width = x.shape
        q, k, v = self.qkv(self.na(x)).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5, -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, length, width))
        return x + self.mlp(self.nb(x))


class ViT(nn.Module):
    """Dosovitskiy et al. 2021, six small blocks over 4x4 patches of 32x32 images."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.places = nn.Conv2d(3, 192, 4, 4), nn.Parameter(torch.zeros(1, 64, 192))
        self.blocks = nn.Sequential(*(Block(192, 3) for _ in range(6)))
        self.norm, self.head = nn.LayerNorm(192), nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Mean of the tokens to classes."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return logits


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20": (resnet20, 32),
    "mobilenet_v2": (mobilenet_v2, 8),
    "vit_small": (ViT, 8),
}
"""Networks and the batch they are trained with."""


def by_hand(name: str) -> nn.Module:
    """The network in torch."""
    torch.manual_seed(0)
    module = NETWORKS[name][0]()
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.dim() == 1 and tensor.is_floating_point():  # the exporter stores tensors that are equal only once
            nn.init.uniform_(tensor.data, *((0.5, 1.5) if key.endswith(("weight", "running_var")) else (-0.1, 0.1)))
    return module


def exported(name: str) -> Executor:
    """The same network with the same weights, through a file."""
    module, x = by_hand(name).eval(), torch.zeros(2, 3, 32, 32)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            module, (x,), str(path), dynamo=False, opset_version=17, input_names=["x"], output_names=["y"],
            training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False, dynamic_axes={"x": {0: "n"}},
        )  # fmt: skip
        return Executor(shrinkc_ir.load(path))


class Trainer:
    """One network, its optimizer, and how a step is timed."""

    def __init__(self, module: nn.Module, run: Callable[[Tensor], Tensor], precision: str, device: str) -> None:
        self.module, self.run, self.precision, self.device = module.to(device).train(), run, precision, device
        self.optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)

    def step(self, x: Tensor, labels: Tensor) -> float:
        """One step; its loss."""
        context = torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with context:
            loss = F.cross_entropy(self.run(x), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def timed(self, x: Tensor, labels: Tensor) -> float:
        """Seconds of a step: of the CPU, or of the wall on a GPU."""
        clock = time.process_time if self.device == "cpu" else time.perf_counter
        started = clock()
        self.step(x, labels)
        return clock() - started


def trainers(name: str, precision: str, device: str) -> tuple[Trainer, Trainer]:
    """By hand, and through the executor."""
    hand, executor = by_hand(name), exported(name)
    return Trainer(hand, hand, precision, device), Trainer(executor, lambda x: executor({"x": x})["y"], precision, device)


def batch(name: str, device: str) -> tuple[Tensor, Tensor]:
    """Random images and labels."""
    size = NETWORKS[name][1] * (1 if device == "cpu" else 8)
    return torch.randn(size, 3, 32, 32, device=device), torch.randint(0, 10, (size,), device=device)


def compared(name: str, precision: str, device: str, rounds: int) -> dict[str, Any]:
    """Medians of alternating steps and of their ratio, and how far the losses of the first steps lie apart."""
    pair = trainers(name, precision, device)
    data = batch(name, device)
    losses = [[trainer.step(*data) for trainer in pair] for _ in range(2)]
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for index in (0, 1) if number % 2 else (1, 0):
            times[index].append(pair[index].timed(*data))
    hand, executor = (statistics.median(t) for t in times)
    return {
        "by_hand_s": round(hand, 5),
        "executor_s": round(executor, 5),
        "step_ratio": round(statistics.median(b / a for a, b in zip(*times, strict=True)), 4),
        "step_ratio_of_minima": round(min(times[1]) / min(times[0]), 4),
        "loss_difference": max(abs(a - b) for a, b in losses),
    }


def memory(name: str, precision: str, device: str) -> dict[str, Any]:
    """Most memory of tensors that three steps add to a network that is loaded, each in a process of its own."""
    peaks = {}
    for which in ("by_hand", "executor"):
        outcome = processes.run(sys.executable, __file__, "--one", which, name, precision, "--device", device)
        if "failed" in outcome.answer:
            raise RuntimeError(outcome.answer["failed"])
        peaks[which] = outcome.answer["peak_bytes"]
    return {f"{which}_peak_bytes": peak for which, peak in peaks.items()} | {
        "memory_ratio": round(peaks["executor"] / peaks["by_hand"], 4)
    }


def one(which: str, name: str, precision: str, device: str) -> None:
    """Three steps of one of the two; prints the peak of the device."""
    pair = trainers(name, precision, device)
    index = 0 if which == "by_hand" else 1
    trainer, other = pair[index], pair[1 - index]
    other.module.to("meta")
    data = batch(name, device)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            trainer.step(*data)
        print(json.dumps({"peak_bytes": torch.cuda.max_memory_allocated()}))
        return
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        for _ in range(3):
            trainer.step(*data)
    print(json.dumps({"peak_bytes": most_allocated(profile)}))


def most_allocated(profile: torch.profiler.profile) -> int:
    """Most bytes of tensors at once, over those at the start: resident memory says more of the allocator than of the steps."""
    assert profile.profiler is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(changes))


def loading() -> dict[str, Any]:
    """CPU seconds from a file of 25.6 million parameters to a module."""
    import compile_time

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet50.onnx"
        compile_time.made(compile_time.resnet50, path)
        seconds = []
        for _ in range(3):
            started = time.process_time()
            executor = Executor(shrinkc_ir.load(path))
            seconds.append(time.process_time() - started)
    return {"parameters": sum(tensor.numel() for tensor in executor.parameters()), "cpu_s": round(min(seconds), 3)}


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", nargs=3, default=None)
    parser.add_argument("--output", default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        one(*arguments.one, arguments.device)
        return
    results: dict[str, Any] = {"loading": loading(), "targets": TARGETS}
    for name in NETWORKS:
        for precision in PRECISIONS:
            row = compared(name, precision, arguments.device, arguments.rounds) | memory(name, precision, arguments.device)
            results[f"{name}_{precision}"] = row
            print(name, precision, row, flush=True)
    output = arguments.output or f"training{'' if arguments.device == 'cpu' else '_' + arguments.device}.json"
    machine = facts.machine() | ({"gpu": torch.cuda.get_device_name()} if arguments.device != "cpu" else {})
    report = {"results": results, "machine": machine, "versions": facts.versions() | {"torch": torch.__version__}}
    Path(__file__).with_name("results").joinpath(output).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(results["loading"])


if __name__ == "__main__":
    main()
