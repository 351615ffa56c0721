"""On a device that is not the CPU, sizes stay on the CPU and everything else is where the data is.

Torch's ``meta`` device stands in for a GPU: it computes shapes only, refuses to be read, and refuses to be mixed with the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models.attention_topologies import ATTENTION
from models.builder import Net
from models.export_topologies import EXPORTED
from models.operator_topologies import OPERATOR_TOPOLOGIES
from models.topologies import TOPOLOGIES

from shrinkc import ir as shrinkc_ir
from shrinkc.shapes import input_shapes, real_inputs
from shrinkc.training.executor import Executor
from shrinkc.training.ops.tensors import dtype_of

MODELS = {**TOPOLOGIES, **OPERATOR_TOPOLOGIES, **ATTENTION, **EXPORTED}
READS_DATA = {
    "branch_whose_result_is_the_only_user", "branch_with_a_layer_inside", "branch_within_a_branch", "control_flow",
    "sampled_regions", "unknown_operator", "weight_inside_and_outside_of_a_branch",
}  # fmt: skip
"""Not run by torch at all, or with a size or a branch that depends on the data."""


@pytest.mark.parametrize("name", sorted(MODELS.keys() - READS_DATA))
def test_everything_but_sizes_is_on_the_device(name: str, saved: Callable[..., Path]) -> None:
    model = shrinkc_ir.load(saved(MODELS[name]()))
    shapes = input_shapes(model)
    executor = Executor(model).to("meta").eval()
    feed = {
        value.name or "": torch.zeros(shapes[value.name or ""], dtype=dtype_of(value.dtype), device="meta")  # type: ignore[arg-type]
        for value in real_inputs(model)
    }
    with torch.no_grad():
        found = executor(feed)
    assert {value.device.type for value in found.values()} == {"meta"}


def test_sizes_are_made_on_the_cpu(saved: Callable[..., Path]) -> None:
    net = Net()
    x = net.input("x", ["n", 4])
    net.output(str(net.op("Reshape", x, net.op("Concat", net.op("Shape", x, start=1), net.ints(-1), axis=0))))
    executor = Executor(shrinkc_ir.load(saved(net)))
    found = executor({"x": torch.zeros(3, 4, device="meta")}, also=["shape0", "concat1"])
    assert [found[name].device.type for name in ("shape0", "concat1", executor.output_names[0])] == ["cpu", "cpu", "meta"]
