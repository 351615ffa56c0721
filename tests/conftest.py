"""Fixtures every test may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, settings
from models.builder import Net

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.analysis.groups import Analysis, analyse
from shrinkc.shapes import input_shapes

ROOT = Path(__file__).parents[1]

settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")  # time tells of the others on a machine, not of the code

collect_ignore_glob = ["models/fake_tensorrt/*"]
"""Stands in for a package in processes that tests start; nothing to import, or to search for examples, here."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests count (``record_property("told", ...)``), which workers of a distributed run cannot print themselves."""
    for report in [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]:
        for name, value in report.user_properties:
            if name == "told":
                terminalreporter.write_line(str(value))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Net | onnx.ModelProto], Path]:
    """Write a net to a file of its own."""

    def save(net: Net | onnx.ModelProto, name: str = "model.onnx") -> Path:
        path = tmp_path / name
        onnx.save(net.model() if isinstance(net, Net) else net, str(path))
        return path

    return save


@pytest.fixture
def analysed(saved: Callable[..., Path]) -> Callable[..., Analysis]:
    """Analyse a net at its default shapes."""

    def run(net: Net | onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]] | None = None, **options: object) -> Analysis:
        model = shrinkc_ir.load(saved(net))
        return analyse(model, input_shapes(model, shapes), registry.operator_rules(), **options)  # type: ignore[arg-type]

    return run


@pytest.fixture
def demo() -> Path:
    """Folder of the bundled example."""
    return ROOT / "examples"


@pytest.fixture
def demo_sample(demo: Path) -> dict[str, np.ndarray]:
    """Two bundled images."""
    with np.load(demo / "fashion_eval.npz") as archive:
        return {"image": archive["image"][:2]}
