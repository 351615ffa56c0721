"""The coverage table of the README is what the tool makes of its measurements and of the rules there are."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("coverage_table", ROOT / "tools" / "coverage_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "coverage_table", module)
    spec.loader.exec_module(module)
    return module


def test_the_readme_holds_the_table_of_the_measurements_and_rules(tool: ModuleType) -> None:
    results = json.loads((ROOT / "docs" / "coverage.json").read_text(encoding="utf-8"))
    results["operators"] = tool.operators()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tool.written_into(readme, tool.table(results)) == readme, "run tools/coverage_table.py --table-only"


def test_every_network_of_the_tests_is_in_the_table(tool: ModuleType) -> None:
    pytest.importorskip("torch")
    from models import torch_convolutional, torch_dense, torch_transformers
    from models.torch_networks import NETWORKS

    assert torch_convolutional
    assert torch_dense
    assert torch_transformers
    results = json.loads((ROOT / "docs" / "coverage.json").read_text(encoding="utf-8"))
    assert set(results["networks"]) == set(NETWORKS)
    for name, row in results["networks"].items():
        for exporter in ("dynamo", "legacy"):
            assert row[exporter] <= NETWORKS[name].left, f"{name} by {exporter}"
