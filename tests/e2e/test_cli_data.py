"""Data of every kind on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from models.topologies import TOPOLOGIES
from PIL import Image

from shrinkc.cli import main

SHRINKC = str(Path(sys.executable).with_name("shrinkc"))
X = np.random.default_rng(0).standard_normal((8, 3, 12, 12)).astype(np.float32)


@pytest.fixture
def place(saved: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with a model of five classes and data of every kind."""
    saved(TOPOLOGIES["chain"]())
    np.savez(tmp_path / "ok.npz", x=X)
    np.savez(tmp_path / "labelled.npz", x=X[:4], labels=np.arange(4))
    for number in range(5):
        (tmp_path / "images" / f"class{number}").mkdir(parents=True)
        Image.new("RGB", (20, 14), (number, 0, 9)).save(tmp_path / "images" / f"class{number}" / "a.png")
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "x.npy", X.astype(np.float64))
    (tmp_path / "own.py").write_text("import numpy as np\ndef few():\n    yield {'x': np.ones((3, 3, 12, 12), np.float32)}\n")
    return tmp_path


ALWAYS = ["compress", "model.onnx", "--no-latency", "--no-verify"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, in the folder: exit code, stdout, stderr."""
    monkeypatch.chdir(place)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["shrinkc", *ALWAYS, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(str(ended.value.code)), *capsys.readouterr()

    return call


def test_a_module_beside_the_model_is_found_by_the_installed_command(place: Path) -> None:
    command = [SHRINKC, *ALWAYS, "--data", "own:few", "--samples", "2", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=place, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["quality"]["samples"] == 2


@pytest.mark.parametrize(
    ("arguments", "quality"),
    [
        (["--data", "images", "--preprocess", "unit"], ("images", 5, True)),
        (["--data", "ok.npz", "--samples", "3"], ("ok.npz", 3, False)),
        (["--data", "ok.npz", "--samples", "3", "--eval-data", "labelled.npz"], ("labelled.npz", 3, True)),
        (["--eval-data", "labelled.npz"], ("labelled.npz", 4, True)),
    ],
)
def test_quality_is_measured_on_samples_of_any_source(arguments: list[str], quality: tuple[str, int, bool], run: Run) -> None:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    found = json.loads(out)["quality"]
    assert (found["data"], found["samples"], found["accuracy_before"] is not None) == quality


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--data", "arrays"], 8, ["expected float32, found float64", "astype(np.float32)"]),
        (["--data", "images"], 8, ["how they become inputs", "imagenet"]),
        (["--data", "own:many"], 8, ["own has no many"]),
        (["--data", "."], 8, ["both arrays and images"]),
        (["--eval-data", "ghost.npz"], 8, ["cannot be read", "ghost.npz"]),
        (["--data", "images", "--preprocess", "unti"], 2, ["no such preprocessing", "unit"]),
        (["--data", "ok.npz", "--preprocess", "unit"], 2, ["no effect"]),
        (["--samples", "3"], 2, ["no effect"]),
    ],
)
def test_data_that_does_not_fit_gets_its_exit_code_and_leaves_no_file(
    arguments: list[str], code: int, words: list[str], place: Path, run: Run
) -> None:
    before = sorted(place.iterdir())
    found, _, err = run(*arguments)
    assert found == code, err
    for word in words:
        assert word in err
    assert [path for path in sorted(place.iterdir()) if path.name != "__pycache__"] == before
