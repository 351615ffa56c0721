"""Models that are wrong or odd on purpose: refused with a cause or compressed, and never another exception."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from models.builder import Net
from models.topologies import TOPOLOGIES, start
from onnx import TensorProto, helper, numpy_helper

import shrinkc
from shrinkc.errors import BudgetError, ModelLoadError, ShrinkcError
from shrinkc.report.model import Report

Save = Callable[..., Path]


def compress(path: Path, **settings: object) -> Report:
    output = path.with_name("out.onnx")
    return shrinkc.compress(path, output=output, prune_ratio=0.5, round_to=1, measure_latency=False, **settings)


def no_outputs(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def too_many_outputs(model: onnx.ModelProto) -> None:
    model.graph.node[0].output.append("extra")


def too_few_inputs(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[1:]


def no_nodes(model: onnx.ModelProto) -> None:
    del model.graph.node[:]


@pytest.mark.parametrize("damage", [no_outputs, too_many_outputs, too_few_inputs, no_nodes])
def test_a_graph_that_cannot_be_is_refused_with_the_cause(damage: Callable[..., None], saved: Save) -> None:
    model = TOPOLOGIES["chain"]().model()
    damage(model)
    with pytest.raises(ModelLoadError) as caught:
        compress(saved(model))
    assert caught.value.because


def test_a_split_that_has_not_the_outputs_it_names_is_refused(saved: Save) -> None:
    """Onnx's shape inference would end the process."""
    model = TOPOLOGIES["even_split_without_sizes"]().model()
    next(node for node in model.graph.node if node.op_type == "Split").output.append("extra")
    with pytest.raises(ModelLoadError) as caught:
        compress(saved(model))
    assert "num_outputs is 2" in caught.value.because


def test_a_call_with_more_outputs_than_its_function_is_refused(saved: Save) -> None:
    model = TOPOLOGIES["local_function"]().model()
    next(node for node in model.graph.node if node.op_type == "Act").output.append("extra")
    with pytest.raises(ModelLoadError, match="does not fit its function"):
        compress(saved(model))


@pytest.mark.parametrize("optimize", [True, False])
def test_layers_that_reach_no_output_are_no_hindrance(optimize: bool, saved: Save) -> None:
    net, x = start()
    y = net.cbr(x, 3, 8)
    net.relu(net.conv(y, 8, 8))
    net.output(net.head(net.cbr(y, 8, 8), 8))
    report = compress(saved(net), optimize=optimize)
    assert report.proof is not None
    assert report.after.parameters < 0.5 * report.before.parameters


@pytest.mark.parametrize("shape", [[], [0, 3, 12, 12], ["n", 3, 0, 12], [2]])
def test_inputs_of_odd_shapes_are_refused_with_a_cause(shape: list[int | str], saved: Save) -> None:
    net = Net()
    net.output(net.head(net.cbr(net.input("x", shape), 3, 8), 8))
    with pytest.raises(ShrinkcError) as caught:
        compress(saved(net))
    assert caught.value.because


def test_an_input_handed_through_is_nothing_to_remove(saved: Save) -> None:
    net = Net()
    net.outputs.append(helper.make_tensor_value_info(net.input("x", [1, 3]), TensorProto.FLOAT, [1, 3]))
    with pytest.raises(BudgetError):
        compress(saved(net))


@pytest.mark.parametrize("opset", [1, 3, 4, 5, 6])
def test_operators_before_opset_7_are_not_read_as_if_they_were_new(opset: int, saved: Save) -> None:
    """Add with ``broadcast`` lines its vector up with ``axis``, not with the last one; sizes are equal to tempt us."""
    net = Net(opset=opset, ir_version=3)
    y = net.op("Conv", net.input("x", [1, 3, 8, 8]), net.weight(8, 3, 1, 1))
    y = net.op("Add", y, net.vector(8), broadcast=1, axis=1)
    y = net.op("PRelu", y, net.vector(8))
    net.output(net.op("Conv", y, net.weight(4, 8, 1, 1)))
    with pytest.raises(BudgetError) as caught:
        compress(saved(net), verify=False)
    assert "before opset 7" in caught.value.because


@pytest.mark.parametrize("seeds", [range(100), pytest.param(range(100, 250), marks=pytest.mark.slow)], ids=["some", "more"])
def test_random_damage_to_the_structure_never_crashes(seeds: range, saved: Save) -> None:
    outcomes = {seed: outcome(saved, seed) for seed in seeds}
    assert {"compressed", "ModelLoadError", "BudgetError"} <= set(outcomes.values())
    assert "no cause" not in outcomes.values(), [seed for seed, result in outcomes.items() if result == "no cause"]


def outcome(saved: Save, seed: int) -> str:
    generator = random.Random(seed)
    model = TOPOLOGIES[generator.choice(sorted(TOPOLOGIES))]().model()
    for _ in range(generator.choice([1, 2])):
        DAMAGE[generator.randrange(len(DAMAGE))](model, generator)
    try:
        compress(saved(model), verify=seed % 2 == 0)
    except ShrinkcError as error:
        return type(error).__name__ if error.because else "no cause"
    return "compressed"


def swap_an_input(model: onnx.ModelProto, generator: random.Random) -> None:
    node = generator.choice([node for node in model.graph.node if node.input])
    names = [name for other in model.graph.node for name in other.output] + [t.name for t in model.graph.initializer]
    node.input[generator.randrange(len(node.input))] = generator.choice(names)


def empty_an_input(model: onnx.ModelProto, generator: random.Random) -> None:
    node = generator.choice([node for node in model.graph.node if node.input])
    node.input[generator.randrange(len(node.input))] = ""


def change_a_number(model: onnx.ModelProto, generator: random.Random) -> None:
    for attribute in generator.choice(model.graph.node).attribute:
        if attribute.type == onnx.AttributeProto.INT:
            attribute.i = generator.choice([-100, -1, 0, 1, 2, 2**40])
        elif len(attribute.ints):
            attribute.ints[generator.randrange(len(attribute.ints))] = generator.choice([-100, -1, 0, 1, 3, 2**40])


def drop_an_attribute(model: onnx.ModelProto, generator: random.Random) -> None:
    node = generator.choice(model.graph.node)
    if node.attribute:
        node.attribute.remove(generator.choice(node.attribute))


def change_the_opset(model: onnx.ModelProto, generator: random.Random) -> None:
    model.opset_import[0].version = generator.choice([-1, 0, 1, 5, 6, 8, 10, 12, 18, 23, 99])


def change_an_operator(model: onnx.ModelProto, generator: random.Random) -> None:
    kinds = ["Relu", "Add", "Reshape", "Gather", "Concat", "Slice", "MatMul", "Pad", "Softmax", "Shape", "Tile", "Bogus", "If"]
    generator.choice(model.graph.node).op_type = generator.choice(kinds)


def reshape_a_tensor(model: onnx.ModelProto, generator: random.Random) -> None:
    if not model.graph.initializer:
        return
    tensor = generator.choice(model.graph.initializer)
    array = numpy_helper.to_array(tensor)
    forms = [array.reshape(-1), array[None], array[:0] if array.ndim else array, array.astype(np.float64)]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(generator.choice(forms)), tensor.name))


def contradict_a_shape(model: onnx.ModelProto, generator: random.Random) -> None:
    name = generator.choice([name for node in model.graph.node for name in node.output])
    shape = generator.choice([[], [0], [1, 2, 3], ["batch", 99, 1, 1]])
    model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def call_everything_the_same(model: onnx.ModelProto, generator: random.Random) -> None:
    for node in model.graph.node:
        node.name = "same"


def declare_twice(model: onnx.ModelProto, generator: random.Random) -> None:
    listed = generator.choice([model.graph.input, model.graph.output, model.graph.initializer, model.graph.node])
    if len(listed):
        listed.append(listed[0])


DAMAGE = [
    swap_an_input, empty_an_input, change_a_number, drop_an_attribute, change_the_opset, change_an_operator, reshape_a_tensor,
    contradict_a_shape, call_everything_the_same, declare_twice,
]  # fmt: skip
