"""onnx's own backend suite, run on the executor: what passes is counted, and may only grow."""

from __future__ import annotations

import json
import re
import unittest
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from shrinkc.errors import UnsupportedGraphError
from shrinkc.training.backend import TorchBackend

RECORD = Path(__file__).with_name("conformance.json")

NOT_COMPARABLE = {
    r"^test_training_dropout": "random: the expected values are numpy's draws",
    r"^test_bernoulli": "random: the expected values are numpy's draws",
}


class Judged(TorchBackend):
    """The backend, with what torch cannot hold or do as a skip with its reason."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **options: Any) -> Any:
        domains = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
        if domains:
            raise unittest.SkipTest(f"domain {', '.join(sorted(domains))}")
        try:
            return SkippingRep(super().prepare(model, device, **options))
        except UnsupportedGraphError as error:
            raise unittest.SkipTest(reason_of(error)) from error


class SkippingRep:
    def __init__(self, rep: Any) -> None:
        self.rep = rep

    def run(self, inputs: Any) -> Any:
        try:
            return self.rep.run(inputs)
        except UnsupportedGraphError as error:
            raise unittest.SkipTest(reason_of(error)) from error


def reason_of(error: UnsupportedGraphError) -> str:
    operators = re.findall(r"[\w.]+::(\w+)", error.where)
    return f"{error.message}: {', '.join(operators) or error.because}"


def identity(test: unittest.TestCase) -> str:
    return test.id().rpartition(".")[2]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Names that failed, reasons of skips, and names that passed, all on the CPU."""
    from onnx.backend.test import BackendTest

    patch = pytest.MonkeyPatch()
    patch.setenv("ONNX_HOME", str(tmp_path_factory.mktemp("onnx")))  # the suite unpacks its light models there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite divides by zero on purpose
        suite = BackendTest(Judged, __name__).exclude("_cuda$").test_suite
        outcome = Recorder()
        suite.run(outcome)
    patch.undo()
    return {"passed": outcome.passed, "skipped": outcome.reasons, "failed": outcome.failed}


class Recorder(unittest.TestResult):
    def __init__(self) -> None:
        super().__init__()
        self.passed: list[str] = []
        self.failed: dict[str, str] = {}
        self.reasons: dict[str, str] = {}

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.passed.append(identity(test))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        if not identity(test).endswith("_cuda"):
            self.reasons[identity(test)] = reason

    def _add(self, test: unittest.TestCase, problem: Any) -> None:
        why = [reason for pattern, reason in NOT_COMPARABLE.items() if re.search(pattern, identity(test))]
        if why:
            self.reasons[identity(test)] = why[0]
        else:
            self.failed[identity(test)] = f"{problem[0].__name__}: {problem[1]}"[:400]

    addError = addFailure = _add


def test_the_suite_passes_as_far_as_it_did_and_further(
    result: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    passed, failed, skipped = (len(result[key]) for key in ("passed", "failed", "skipped"))
    told = [f"onnx {onnx.__version__} backend suite: {passed} passed, {skipped} skipped, {failed} failed"]
    told += [f"  {count:4d} skipped: {reason}" for reason, count in Counter(result["skipped"].values()).most_common()]
    told += [f"  failed: {name}: {' '.join(problem.split())[:160]}" for name, problem in result["failed"].items()]
    record_property("told", "\n".join(told))
    assert not result["failed"].keys() - set(record["failed"]), "tests fail that did not"
    if onnx.__version__ == record["onnx"]:
        assert passed >= record["passed"], "fewer tests pass than did"


def test_most_of_the_node_suite_of_the_standard_domain_passes(result: dict[str, Any]) -> None:
    counted = [name for name, reason in result["skipped"].items() if not reason.startswith("domain ")]
    total = len(result["passed"]) + len(result["failed"]) + len(counted)
    assert total > 1500
    assert len(result["passed"]) / total >= 0.85
