"""What a board sends back counts only if it ran what was sent there, and its numbers are right."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from models.fake_board import FakeCuda, fake_tensorrt, sent_to_jetson

from shrinkc import board_results
from shrinkc.boards import tensorrt_on_board as board
from shrinkc.cli import cli
from shrinkc.errors import RecipeError, VerificationError

Change = Callable[[dict[str, Any]], object]


@dataclass
class Returned:
    """The folder that was sent, and what the script wrote there."""

    folder: Path
    result: Path

    def changed(self, change: Change) -> Path:
        """Write another result, with something changed."""
        data = json.loads(self.result.read_text())
        change(data)
        path = self.result.with_name("changed.json")
        path.write_text(json.dumps(data))
        return path


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a target, with the script run in it as a board would."""
    root = tmp_path_factory.mktemp("sent")
    sent_to_jetson(root)
    folder = root / "small.jetson-orin-nano"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", fake_tensorrt("10.7.0", []))
        patch.setattr(board, "Cuda", FakeCuda)
        patch.chdir(folder)
        for name in ("fp16", "int8"):
            board.main([f"model.{name}.onnx", "reference.npz", "--warmup-s", "0", "--duration-s", "0.01", "-o", f"{name}.json"])
    return root


@pytest.fixture
def returned(sent: Path, tmp_path: Path) -> Returned:
    """A copy of it that a test may change."""
    shutil.copytree(sent, tmp_path / "here")
    folder = tmp_path / "here" / "small.jetson-orin-nano"
    return Returned(folder, folder / "fp16.json")


def test_a_result_is_checked_and_put_into_the_report_as_timed_on_the_board(returned: Returned) -> None:
    result = CliRunner().invoke(cli, ["targets", "read", str(returned.result), "--json"])
    assert result.exception is None, result.stderr
    (told,) = json.loads(result.stdout)["results"]
    raw = json.loads(returned.result.read_text())
    assert (told["level"], told["status"], told["version"], told["precision"]) == ("timed", "ok", "10.7.0", "float16")
    assert told["median_s"] == raw["latency_s"]["median"]
    assert told["relative_error"] == raw["outputs"]["y"]["relative"] < told["tolerance"] == 2e-2
    report = json.loads(returned.folder.with_name("small.report.json").read_text())
    (row,) = [row for row in report["runtimes"] if row["runtime"] == "tensorrt"]
    assert row["level"] == "timed"
    assert "timed on the board" in row["detail"]
    assert report["board"] == [told]
    assert "timed on the board" in returned.folder.with_name("small.report.md").read_text()


def test_reading_again_changes_nothing_and_another_file_is_added(returned: Returned) -> None:
    """Quantised files are for a metric of the task to judge; that they were timed is said all the same."""
    files = [returned.folder.with_name(f"small.report.{kind}") for kind in ("json", "md")]
    board_results.merge(board_results.read([returned.result]), returned.folder)
    once = [path.read_text() for path in files]
    board_results.merge(board_results.read([returned.result]), returned.folder)
    assert [path.read_text() for path in files] == once
    board_results.merge(board_results.read([returned.folder / "int8.json"]), returned.folder)
    report = json.loads(files[0].read_text())
    assert [(one["file"], one["tolerance"]) for one in report["board"]] == [
        ("model.fp16.onnx", 2e-2),
        ("model.int8.onnx", None),
    ]
    assert "metric of the task" in report["board"][1]["reason"]
    assert sum(row["runtime"] == "tensorrt" for row in report["runtimes"]) == 1
    assert files[1].read_text().count("## On the board") == 1


@pytest.mark.parametrize("relative", [0.021, float("nan"), float("inf")])
def test_times_of_wrong_numbers_do_not_count(returned: Returned, relative: float) -> None:
    path = returned.changed(lambda data: data["outputs"]["y"].update(relative=relative))
    result = CliRunner().invoke(cli, ["targets", "read", str(path)])
    assert isinstance(result.exception, VerificationError)
    report = json.loads(returned.folder.with_name("small.report.json").read_text())
    (told,) = report["board"]
    assert (told["level"], told["status"], told["median_s"]) == ("loaded", "failed", None)
    assert [row["level"] for row in report["runtimes"] if row["runtime"] == "tensorrt"] == ["loaded"]


def test_numbers_without_enough_runs_are_validated_not_timed(returned: Returned) -> None:
    (told,) = board_results.read([returned.changed(lambda data: data["latency_s"].update(runs=3))])
    assert (told.level, told.status, told.median_s) == ("validated", "ok", None)


def test_throttling_and_unknown_versions_are_noted(returned: Returned) -> None:
    def worsen(data: dict[str, Any]) -> None:
        data["tensorrt"] = "12.0.1"
        data["latency_s"]["drift"] = 0.4

    (told,) = board_results.read([returned.changed(worsen)])
    assert told.level == "timed"
    assert ["TensorRT 12" in told.notes[0], "throttle" in told.notes[1]] == [True, True]


@pytest.mark.parametrize("key", ["model", "model_sha256", "reference_sha256"])
def test_a_result_of_another_file_or_reference_is_refused(returned: Returned, key: str) -> None:
    before = returned.folder.with_name("small.report.json").read_bytes()
    with pytest.raises(VerificationError, match="another file than was sent"):
        board_results.read([returned.changed(lambda data: data.update({key: "0" * 64}))])
    assert returned.folder.with_name("small.report.json").read_bytes() == before


def test_a_file_changed_here_since_is_found(returned: Returned) -> None:
    with (returned.folder / "model.fp16.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(VerificationError):
        board_results.read([returned.result])


def test_the_report_of_another_model_is_left_alone(returned: Returned) -> None:
    path = returned.folder.with_name("small.report.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "output_sha256": "0"}))
    with pytest.raises(VerificationError, match="another model"):
        board_results.merge(board_results.read([returned.result]), returned.folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(schema="shrinkc.board/9"),
        lambda data: data.pop("latency_s"),
        lambda data: data.update(outputs={}),
        lambda data: data.update(outputs=[1]),
        lambda data: data.update(tensorrt="new"),
        lambda data: data["latency_s"].update(median="fast"),
    ],
)
def test_a_damaged_result_is_an_error_of_its_file(returned: Returned, change: Change) -> None:
    with pytest.raises(RecipeError) as raised:
        board_results.read([returned.changed(change)])
    assert "changed.json" in str(raised.value)
