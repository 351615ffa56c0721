"""What a plan is predicted to cost: from evidence to the report."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models.topologies import TOPOLOGIES
from rich.console import Console

import shrinkc
from shrinkc import registry
from shrinkc.analysis.cost import CostModel
from shrinkc.analysis.groups import Analysis
from shrinkc.api import Evidence
from shrinkc.budget import parse
from shrinkc.evidence.curves import greedy_elimination
from shrinkc.evidence.data import Data
from shrinkc.evidence.gathering import gather
from shrinkc.planning import Planned, planned_for
from shrinkc.recipe import resolve
from shrinkc.report import json as report_json
from shrinkc.report import markdown
from shrinkc.report.model import group_rows
from shrinkc.report.terminal import show, show_groups


def evidence_of(analysis: Analysis) -> Evidence:
    inputs = {"x": np.random.default_rng(0).standard_normal((16, 3, 12, 12)).astype(np.float32)}
    return gather(analysis, Data(inputs, None, "made up"), [inputs], registry.load("runtimes", "onnxruntime-cpu")())


def planned(analysis: Analysis, evidence: Evidence | None, **settings: object) -> Planned:
    recipe = resolve(criterion="obs" if evidence else "l2", round_to=1, **settings)
    budgets = [parse("macs", recipe.macs)] if recipe.macs else []
    return planned_for(analysis, recipe, budgets, CostModel(analysis), "", evidence)


def test_a_forecast_reads_the_error_curve_and_the_price_of_the_last_step(analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(TOPOLOGIES["chain"]())
    evidence = evidence_of(analysis)
    result, cost = planned(analysis, evidence, prune_ratio=0.5), CostModel(analysis)
    keep = result.plan.keep()
    for group in analysis.groups:
        elimination = greedy_elimination(evidence, group)
        assert elimination is not None
        removed, given = group.width - len(keep[group.name]), result.forecast[group.name]
        one_more = {**keep, group.name: (*keep[group.name], int(elimination.order[removed - 1]))}
        saved = cost.of(analysis.keep_mask(one_more)).macs - cost.of(analysis.keep_mask(keep)).macs
        added = elimination.errors[removed] - elimination.errors[removed - 1]
        assert given.error == pytest.approx(elimination.errors[removed])
        assert given.marginal == pytest.approx(added / (100 * saved / cost.dense().macs))


def test_without_evidence_nothing_is_predicted(analysed: Callable[..., Analysis]) -> None:
    assert planned(analysed(TOPOLOGIES["chain"]()), None, prune_ratio=0.5).forecast == {}


def test_a_group_that_stays_whole_has_no_last_step(analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(TOPOLOGIES["chain"]())
    forecast = planned(analysis, evidence_of(analysis), prune_ratio=0.01).forecast
    assert [(one.error, one.marginal) for one in forecast.values()] == [(0.0, None)] * len(analysis.groups)


def test_minimising_the_error_predicts_less_of_it_than_the_same_share_everywhere(analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(TOPOLOGIES["projection_shortcut"]())
    evidence = evidence_of(analysis)
    errors = {
        allocator: sum(one.error for one in planned(analysis, evidence, macs="50%", allocator=allocator).forecast.values())
        for allocator in ("uniform", "lagrangian", "dynamic-programming")
    }
    assert 0 < errors["lagrangian"] < errors["uniform"]
    assert 0 < errors["dynamic-programming"] < errors["uniform"]


def test_the_report_shows_predicted_and_marginal_errors(
    saved: Callable[..., Path], analysed: Callable[..., Analysis], tmp_path: Path
) -> None:
    net = TOPOLOGIES["chain"]()
    analysis = analysed(net)
    result = planned(analysis, evidence_of(analysis), prune_ratio=0.5)
    bare = shrinkc.compress(saved(net), output=tmp_path / "out.onnx", prune_ratio=0.5, round_to=1, dry_run=True)
    report = replace(bare, groups=group_rows(analysis, result.plan, result.forecast))
    data = json.loads(report_json.dumps(report))
    errors = [one.error for one in result.forecast.values()]
    assert [row["predicted_error"] for row in data["groups"]] == errors
    assert all(row["marginal_cost"] > 0 for row in data["groups"])
    assert data["predicted_error"] == pytest.approx(sum(errors))
    shown = markdown.render(report)
    assert f"| all | {100 * sum(errors):.3g} % | |" in shown
    console = Console(width=200, file=io.StringIO(), record=True)
    show(report, console)
    show_groups(report, console)
    printed = console.export_text()
    assert "Predicted error of the outputs" in printed
    assert f"{100 * errors[0]:.3g} %" in printed
    assert "Predicted errors" not in markdown.render(bare)
    assert json.loads(report_json.dumps(bare))["predicted_error"] is None
