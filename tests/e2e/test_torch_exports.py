"""What both exporters of torch really write: a small network of every family, pruned and proved.

The networks that stand for their kind run every time, the others with ``-m slow`` (``make test-exports``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import judge
import onnx
import pytest
from models import torch_convolutional, torch_dense, torch_transformers
from models.torch_networks import NETWORKS, export

import shrinkc

assert torch_convolutional
assert torch_dense
assert torch_transformers

EVERYTHING = "conv,mlp,heads,head-dim,stream"
EXPORTERS = ("legacy", "dynamo")

Exported = Callable[[str, str], Path]


def tiered(name: str, *more: str) -> object:
    """One case, in the slower tier unless the network stands for its kind."""
    marks = () if NETWORKS[name].is_representative else (pytest.mark.slow,)
    return pytest.param(name, *more, id="-".join((name, *more)), marks=marks)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Path of an export; every network is exported once, as that is what takes long."""
    folder, paths = tmp_path_factory.mktemp("exports"), dict[tuple[str, str], Path]()

    def path_of(name: str, exporter: str) -> Path:
        if (name, exporter) not in paths:
            paths[name, exporter] = export(name, exporter, folder / f"{name}.{exporter}.onnx")
        return paths[name, exporter]

    return path_of


def share_left(original: Path, folder: Path, prune: str | None = None) -> float:
    """Compress at ratio 0.5, ask both judges, and tell the share of the MACs that is left."""
    output, plan = folder / "out.onnx", folder / "plan.json"
    report = shrinkc.compress(
        original, output=output, save_plan=plan, prune_ratio=0.5, round_to=1, optimize=False, measure_latency=False, prune=prune
    )
    assert report.proof is not None
    assert not report.proof.is_weak
    assert judge.face(output) == judge.face(original)
    assert judge.independent_verdict(original, output, plan) == "pass"
    return report.after.macs / report.before.macs


@pytest.mark.parametrize(("name", "exporter"), [tiered(name, exporter) for name in NETWORKS for exporter in EXPORTERS])
def test_networks_of_every_family_are_halved_and_both_judges_agree(
    name: str, exporter: str, exported: Exported, tmp_path: Path
) -> None:
    left = share_left(exported(name, exporter), tmp_path)
    assert NETWORKS[name].left - SLACK < left <= NETWORKS[name].left, NETWORKS[name].why


WITH_STREAM = [name for name, network in NETWORKS.items() if network.left_of_everything is not None]
SLACK = 0.03
"""How far below its figure a share may lie; the figure is mended when more can be removed."""


@pytest.mark.parametrize("name", [tiered(name) for name in WITH_STREAM])
def test_with_heads_and_stream_hardly_a_quarter_is_left(name: str, exported: Exported, tmp_path: Path) -> None:
    left, bound = share_left(exported(name, "dynamo"), tmp_path, EVERYTHING), NETWORKS[name].left_of_everything
    assert bound is not None
    assert bound < NETWORKS[name].left
    assert bound - SLACK < left <= bound


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_cleaning_up_keeps_scopes_and_drops_stack_traces(exporter: str, exported: Exported, tmp_path: Path) -> None:
    cleaned = tmp_path / "cleaned.onnx"
    shrinkc.compress(exported("unet", exporter), output=cleaned, prune_ratio=0.5, round_to=1, measure_latency=False)
    scopes = [len(node.metadata_props) for node in onnx.load(str(cleaned)).graph.node]
    if exporter == "dynamo":
        assert any(scopes), "name scopes survive"
    assert b"stack_trace" not in cleaned.read_bytes()
