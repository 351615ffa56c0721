"""The module torch users get: called with tensors, copied, trained under autocast, saved."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from models.builder import Net

import shrinkc.torch
from shrinkc.errors import RecipeError
from shrinkc.training.executor import Executor


@pytest.fixture
def path(saved: Callable[..., Path]) -> Path:
    """Two inputs, two outputs; a linear layer in pieces, a GELU in pieces, and shape arithmetic."""
    net = Net()
    a, b = net.input("a", ["n", 4]), net.input("b", ["n", 4])
    x = net.op("Add", net.op("MatMul", net.op("Add", a, b), net.weight(4, 4, name="w")), net.vector(4, "bias"))
    half, one, root = (net.const(torch.tensor(value).numpy()) for value in (0.5, 1.0, 2**0.5))
    bell = net.op("Add", net.op("Erf", net.op("Div", x, root)), one)
    net.output(str(net.op("Mul", net.op("Mul", x, bell), half)))
    net.output(str(net.op("Reshape", x, net.op("Concat", net.op("Shape", a, start=0, end=1), net.ints(2, 2), axis=0))))
    return saved(net)


@pytest.fixture
def a() -> torch.Tensor:
    return torch.linspace(-2, 2, 12).reshape(3, 4)


def test_inputs_by_position_or_name_give_a_tuple(path: Path, a: torch.Tensor) -> None:
    module = shrinkc.torch.load(path)
    first, second = module(a, b=a)
    assert (first.shape, second.shape) == ((3, 4), (3, 2, 2))
    torch.testing.assert_close(module(a, a), (first, second))
    expected = torch.nn.functional.linear(2 * a, module.tensor("w").t(), module.tensor("bias"))
    torch.testing.assert_close(second.flatten(1), expected)
    torch.testing.assert_close(first, torch.nn.functional.gelu(expected))


def test_one_output_is_a_tensor(saved: Callable[..., Path], a: torch.Tensor) -> None:
    net = Net()
    net.output(net.relu(net.input("x", ["n", 4])))
    assert torch.equal(shrinkc.torch.load(saved(net))(a), a.relu())


@pytest.mark.parametrize(("positional", "named"), [(1, ()), (3, ()), (2, ("b",)), (1, ("c",))])
def test_inputs_that_do_not_fit_are_refused(path: Path, a: torch.Tensor, positional: int, named: tuple[str, ...]) -> None:
    with pytest.raises(TypeError, match="model"):
        shrinkc.torch.load(path)(*[a] * positional, **dict.fromkeys(named, a))


def test_what_was_trained_is_in_the_file(path: Path, a: torch.Tensor, tmp_path: Path) -> None:
    module = shrinkc.torch.load(path)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    module(a, a)[0].sum().backward()
    optimizer.step()
    assert shrinkc.torch.save(module, tmp_path / "trained.onnx") == (tmp_path / "trained.onnx").stat().st_size
    torch.testing.assert_close(shrinkc.torch.load(tmp_path / "trained.onnx")(a, a), module(a, a))
    with pytest.raises(RecipeError, match="made of an ONNX file"):
        shrinkc.torch.save(torch.nn.Linear(2, 2), tmp_path / "other.onnx")  # type: ignore[arg-type]


def test_a_copy_trains_on_its_own(path: Path, a: torch.Tensor) -> None:
    module = shrinkc.torch.load(path).eval()
    other = copy.deepcopy(module)
    assert not other.training
    assert torch.equal(other(a, a)[0], module(a, a)[0])
    with torch.no_grad():
        other.tensor("w").zero_()
    assert not torch.equal(other(a, a)[0], module(a, a)[0])


def test_values_inside_a_fused_piece_can_be_asked_for(path: Path, a: torch.Tensor) -> None:
    executor = Executor(ir.load(path))
    found = executor({"a": a, "b": a}, also=["matmul1", "erf4"])
    torch.testing.assert_close(found["matmul1"], 2 * a @ executor.tensor("w"))
    torch.testing.assert_close(found[executor.output_names[0]], executor({"a": a, "b": a})[executor.output_names[0]])


def test_under_autocast_products_are_in_bfloat16_and_weights_stay(path: Path, a: torch.Tensor) -> None:
    module = shrinkc.torch.load(path)
    with torch.autocast("cpu", torch.bfloat16):
        first, second = module(a, a)
    assert first.dtype == second.dtype == torch.bfloat16
    first.float().sum().backward()
    assert module.tensor("w").dtype == module.tensor("w").grad.dtype == torch.float32  # type: ignore[union-attr]
    torch.testing.assert_close(second.float(), module(a, a)[1], rtol=0.05, atol=0.1)


def test_channels_last_gives_the_same(saved: Callable[..., Path]) -> None:
    net = Net()
    net.output(net.head(net.cbr(net.input("x", ["n", 3, 8, 8]), 3, 8), 8))
    module, x = shrinkc.torch.load(saved(net)).eval(), torch.randn(2, 3, 8, 8)
    before = module(x)
    module = module.to(memory_format=torch.channels_last)
    after = module(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_sizes_stay_on_the_cpu_and_outputs_are_the_same(path: Path, a: torch.Tensor) -> None:
    module = shrinkc.torch.load(path)
    before = module(a, a)
    after = module.cuda()(a.cuda(), a.cuda())
    torch.testing.assert_close([tensor.cpu() for tensor in after], list(before), rtol=1e-4, atol=1e-5)


def test_importing_shrinkc_imports_no_torch() -> None:
    script = "import sys, shrinkc.pipeline, shrinkc.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_without_torch_the_error_says_how_to_get_it() -> None:
    script = (
        "import importlib.util as u\nfound = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'torch' else found(name, *rest)\n"
        "from shrinkc.errors import RuntimeUnavailable\n"
        "try:\n    import shrinkc.torch\nexcept RuntimeUnavailable as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'shrinkc[torch]'" in result.stdout


def test_a_module_is_compressed_and_trains_on() -> None:
    layers = [torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 4))
    image = torch.randn(1, 3, 12, 12)
    found = shrinkc.compress(network, [image], prune_ratio=0.5, round_to=1, measure_latency=False)
    assert network.training
    assert found.report.after.parameters < 0.5 * found.report.before.parameters
    assert sum(tensor.numel() for tensor in found.module.parameters()) == found.report.after.parameters
    y = found.module(torch.cat([image] * 3))
    assert y.shape == (3, 4)
    y.sum().backward()
    assert all(tensor.grad is not None for tensor in found.module.parameters())
    assert found.report.output is None, "no file was asked for, and none is left"
    onnx.checker.check_model(found.onnx, full_check=True)
    session = onnxruntime.InferenceSession(found.onnx.SerializeToString())
    (given,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    np.testing.assert_allclose(given, found.module(image).detach().numpy(), atol=1e-5)


def test_parts_that_shall_not_train_do_not_after_a_compression_either(tmp_path: Path) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 3)
    )
    network[1].eval()
    found = shrinkc.compress(
        network, [torch.randn(2, 3, 12, 12)], prune_ratio=0.5, round_to=1, measure_latency=False, output=tmp_path / "o.onnx"
    )
    assert [part.training for part in network] == [True, False, True, True]
    assert found.report.output == str(tmp_path / "o.onnx")


def test_the_example_of_the_readme_needs_no_import_of_its_own(saved: Callable[..., Path]) -> None:
    net = Net()
    net.output(net.relu(net.input("x", ["N", 2])))
    script = f"import shrinkc; print(type(shrinkc.torch.load({str(saved(net))!r})).__name__)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "OnnxModule"


def test_a_module_without_inputs_to_export_it_with_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"neither a file nor a module with inputs(?s:.*)\(images,\)"):
        shrinkc.compress(torch.nn.Linear(2, 2), macs="50%")
    for model, inputs in (("m.onnx", (torch.zeros(1, 2),)), ("m.onnx", "out.onnx"), (torch.nn.Linear(2, 2), torch.zeros(1, 2))):
        with pytest.raises(RecipeError, match="neither a file nor a module"):
            shrinkc.compress(model, inputs, macs="50%")  # type: ignore[call-overload]
    with pytest.raises(RecipeError, match="dry run"):
        shrinkc.compress(torch.nn.Linear(2, 2), (torch.zeros(1, 2),), dry_run=True)


def test_a_value_inside_a_piece_that_others_need_is_still_made(saved: Callable[..., Path], a: torch.Tensor) -> None:
    net = Net()
    x = net.op("MatMul", net.input("a", ["n", 4]), net.weight(4, 4, name="w"))
    net.output(str(x))
    y = net.op("Add", x, net.const(torch.ones(4).numpy()))
    gate = net.op("Sigmoid", y)
    net.output(str(net.op("Mul", y, gate)))
    net.output(str(net.op("Neg", gate)))
    module = shrinkc.torch.load(saved(net))
    product = a @ module.tensor("w")
    gates = (product + 1).sigmoid()
    torch.testing.assert_close(module(a), (product, (product + 1) * gates, -gates))
