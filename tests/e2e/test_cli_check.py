"""``shrinkc check`` as a pipeline calls it: each limit passes and fails on the demo, and says so to people and to machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from models.topologies import TOPOLOGIES
from onnx import numpy_helper

import shrinkc
from shrinkc import checking
from shrinkc.cli import cli
from shrinkc.errors import GateError, InconclusiveError, RecipeError, RuntimeUnavailable, ShrinkcError
from shrinkc.latency import probe
from shrinkc.latency.probe import Comparison, Timing
from shrinkc.limits import Limits
from shrinkc.report.check import Check, Verdict
from shrinkc.report.junit import render

Save = Callable[..., Path]
Run = Callable[..., tuple[dict[str, dict[str, object]], BaseException | None]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with most of its channels gone, and nothing done about it, and the plan that says which."""
    folder = tmp_path_factory.mktemp("small")
    shrinkc.compress(
        Path(__file__).parents[2] / "examples/fashion_resnet.onnx",
        output=folder / "small.onnx",
        save_plan=folder / "plan.json",
        prune_ratio=0.6,
        verify=False,
        measure_latency=False,
    )
    return folder / "small.onnx"


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the demo's labelled images."""
    with np.load(Path(__file__).parents[2] / "examples/fashion_eval.npz") as archive:
        arrays = {name: archive[name][:200] for name in archive.files}
    path = tmp_path_factory.mktemp("data") / "eval.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def run(demo: Path, small: Path) -> Run:
    """Call the command on the pair; verdicts by name, and the error it ends with."""

    def call(*arguments: object) -> tuple[dict[str, dict[str, object]], BaseException | None]:
        words = ["check", str(demo / "fashion_resnet.onnx"), str(small), *map(str, arguments), "--json", "-q"]
        result = CliRunner().invoke(cli, words)
        found = json.loads(result.stdout)["verdicts"] if result.stdout else []
        return {row["limit"] + row["subject"]: row for row in found}, result.exception

    return call


def independent_figures(original: Path, compressed: Path, evaluation: Path) -> dict[str, float]:
    """Counted and measured without shrinkc's own counters."""
    import onnxruntime as ort

    with np.load(evaluation) as archive:
        images, labels = archive["image"], archive["labels"]
    sessions = [ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in (original, compressed)]
    classes = [session.run(None, {"image": images})[0].argmax(1) for session in sessions]
    accuracy = [float((found == labels).mean()) for found in classes]
    stored = [onnx.load(str(path)).graph.initializer for path in (original, compressed)]
    weights = [sum(int(np.prod(tensor.dims)) for tensor in tensors) for tensors in stored]
    return {
        "max_drop": 100 * (accuracy[0] - accuracy[1]),
        "min_accuracy": accuracy[1],
        "min_agreement": float((classes[0] == classes[1]).mean()),
        "max_size": compressed.stat().st_size,
        "weights": weights[1] / weights[0],
    }


def test_limits_of_files_and_quality_pass_and_fail_around_the_true_figure(
    run: Run, demo: Path, small: Path, evaluation: Path
) -> None:
    true = independent_figures(demo / "fashion_resnet.onnx", small, evaluation)
    share = true["weights"]
    sides = {
        "max_drop": (true["max_drop"] + 0.1, true["max_drop"] - 0.1),
        "min_accuracy": (true["min_accuracy"] - 0.001, true["min_accuracy"] + 0.001),
        "min_agreement": (f"{100 * true['min_agreement'] - 0.1:.4f}%", f"{100 * true['min_agreement'] + 0.1:.4f}%"),
        "max_size": (int(true["max_size"]), int(true["max_size"]) - 1),
        "max_params": (f"{100 * share + 1:.2f}%", f"{100 * share - 1:.2f}%"),
        "max_macs": ("100%", "10%"),
    }
    for side, expected in enumerate(("passed", "failed")):
        flags = [word for name, values in sides.items() for word in (f"--{name.replace('_', '-')}", values[side])]
        verdicts, error = run(*flags, "--data", evaluation)
        assert {name: row["status"] for name, row in verdicts.items()} == dict.fromkeys(verdicts, expected)
        assert verdicts.keys() == sides.keys()
        assert error is None if expected == "passed" else isinstance(error, GateError)
    for name in ("max_drop", "min_accuracy", "min_agreement", "max_size"):
        assert verdicts[name]["value"] == pytest.approx(true[name])


def timing(wall: float, cpu: float, is_contended: bool) -> Timing:
    return Timing(wall, wall, cpu, cpu, 10, is_contended)


def comparison(low: float, high: float, cpu: float, is_contended: bool) -> Comparison:
    """As if the least disturbed run had taken a thousandth of a second."""
    before, after = (timing(1e-3 * factor, 1e-3 * factor, is_contended) for factor in (cpu, 1.0))
    return Comparison(before, after, (low + high) / 2, low, high, 0.9 * cpu, 0.0, 1, 1, 0.0)


@pytest.mark.parametrize(
    ("found", "expected", "times"),
    [
        (comparison(1.55, 1.7, 3.0, is_contended=False), None, 1),
        (comparison(1.2, 1.4, 3.0, is_contended=False), GateError, 1),
        (comparison(1.4, 1.6, 3.0, is_contended=False), InconclusiveError, checking.TRIES),
        (comparison(0.5, 9.0, 2.0, is_contended=True), None, 1),  # by CPU time, whatever the walls say
        (comparison(2.0, 9.0, 1.6, is_contended=True), InconclusiveError, checking.TRIES),
        (comparison(2.0, 9.0, 1.2, is_contended=True), GateError, 1),
    ],
)
def test_a_speed_up_is_judged_only_where_its_estimates_agree(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    found: Comparison,
    expected: type[ShrinkcError] | None,
    times: int,
) -> None:
    measured = []
    monkeypatch.setattr(probe, "compare", lambda *arguments: measured.append(arguments) or found)
    verdicts, error = run("--min-speedup", "1.5")
    assert error is None if expected is None else type(error) is expected
    assert len(measured) == times
    assert verdicts.keys() == {"min_speedup"}


def test_a_real_measurement_decides_what_nobody_can_doubt(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WARMUP_S", "BLOCK_S"):
        monkeypatch.setattr(probe, name, 0.02)
    assert isinstance(run("--min-speedup", "500")[1], GateError)
    assert run("--min-speedup", "0.002")[1] is None


def test_engines_must_agree_and_those_named_must_be_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts, error = run("--runtimes", "onnxruntime-cpu,onnxruntime-cuda")
    if verdicts["runtimesonnxruntime-cuda"]["status"] == "missing":
        assert isinstance(error, RuntimeUnavailable)
    assert verdicts["runtimesonnxruntime-cpu"]["status"] == "passed"
    from shrinkc import tolerances

    monkeypatch.setitem(tolerances.TOLERANCES, "float32", -1.0)
    monkeypatch.setattr(tolerances, "NEGLIGIBLE", -1.0)
    verdicts, error = run("--runtimes", "onnxruntime-cpu")
    assert isinstance(error, GateError)
    assert verdicts["runtimesonnxruntime-cpu"]["status"] == "failed"


def test_a_plan_gives_the_same_bytes_or_says_what_differs(run: Run, demo: Path, small: Path) -> None:
    plan = small.with_name("plan.json")
    verdicts, error = run("--plan", plan)
    assert error is None
    assert "surgery proved in" in str(verdicts["plan"]["detail"])
    tampered = small.with_name("tampered.onnx")
    nudge(small, tampered, "fc.weight")
    found = shrinkc.check(demo / "fashion_resnet.onnx", tampered, plan=plan)
    assert found.outcome == "failed"
    assert "values of 1 tensors differ, most in fc.weight" in found.verdicts[0].detail


def nudge(source: Path, target: Path, name: str) -> None:
    """Write a model with one weight a little off."""
    model = onnx.load(str(source))
    (stored,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(stored).copy()
    array.flat[0] += 1e-3
    stored.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(model, str(target))


@pytest.fixture
def fitted(saved: Save, tmp_path: Path) -> Path:
    """Folder of a net, its cut fitted to samples, and the plan."""
    saved(TOPOLOGIES["chain"]())
    model = onnx.load(str(tmp_path / "model.onnx"))
    name = model.graph.input[0].name
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim][1:]
    for file, seed in (("a.npz", 0), ("b.npz", 1)):
        np.savez(tmp_path / file, **{name: np.random.default_rng(seed).standard_normal((80, *shape)).astype(np.float32)})
    shrinkc.compress(
        tmp_path / "model.onnx",
        output=tmp_path / "small.onnx",
        save_plan=tmp_path / "plan.json",
        data=tmp_path / "a.npz",
        macs="60%",
        round_to=1,
        measure_latency=False,
        optimize=False,
        seed=3,
    )
    return tmp_path


def test_a_fitted_model_is_proved_with_the_samples_it_was_fitted_to(fitted: Path) -> None:
    """The held-out quarter, the seed and what the first run left out are the first run's again."""

    def verdict(**given: object) -> Verdict:
        found = shrinkc.check(fitted / "model.onnx", fitted / "small.onnx", plan=fitted / "plan.json", **given)  # type: ignore[arg-type]
        return found.verdicts[0]

    assert verdict(calibration=fitted / "a.npz").status == "passed"
    assert verdict(calibration=fitted / "b.npz").status == "failed"
    assert verdict().status == "failed"
    assert "--calibration" in verdict().detail


def test_a_plan_that_trained_cannot_be_repeated_and_is_refused(demo: Path, small: Path, tmp_path: Path) -> None:
    data = json.loads(small.with_name("plan.json").read_text())
    data["settings"]["recover"] = "3min"
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(RecipeError, match="byte for byte"):
        shrinkc.check(demo / "fashion_resnet.onnx", small, plan=tmp_path / "plan.json")


def test_limits_of_a_file_hold_and_flags_take_precedence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "check.toml").write_text('max_size = "10%"\nmax_macs = "100%"\n')
    verdicts, error = run("--limits", tmp_path / "check.toml")
    assert isinstance(error, GateError)
    assert {name: row["status"] for name, row in verdicts.items()} == {"max_size": "failed", "max_macs": "passed"}
    assert run("--limits", tmp_path / "check.toml", "--max-size", "100%")[1] is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('max_sise = "10%"', "the nearest one is max_size"),
        ("min_accuracy = 91", "write 91% or 0.91"),
        ("max_drop = true", "not a number"),
        ('min_speedup = "fast"', "not a number"),
        ("min_speedup = 0", "above 0"),
        ("max_macs = [1]", "write 50% or 1.5M"),
        ('runtimes = " , "', "names no runtime"),
        ("max_size = ", "cannot be read"),
    ],
)
def test_a_limit_that_makes_no_sense_is_named_with_its_place(run: Run, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "check.toml").write_text(text)
    _, error = run("--limits", tmp_path / "check.toml")
    assert isinstance(error, RecipeError)
    assert says in str(error)
    assert "check.toml" in str(error)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--max-drop", "1"],
        ["--max-size", "60%", "--data", "EVAL"],
        ["--max-size", "60%", "--calibration", "EVAL"],
        ["--max-size", "60%", "--threads", "2"],
        ["--max-size", "60%", "--samples", "10"],
        ["--max-drop", "1", "--data", "EVAL", "--preprocess", "unit"],
        ["--max-drop", "1", "--data", "EVAL", "--input-shapes", "image:1x1x28x28"],
        ["--plan", "PLAN", "--calibration", "EVAL"],
        ["--max-size", "60%", "--junit", "MODEL"],
        ["--max-size", "60%", "--junit", "a.xml", "--markdown", "a.xml"],
    ],
)
def test_what_would_have_no_effect_or_destroy_a_file_is_refused(
    run: Run,
    small: Path,
    evaluation: Path,
    flags: list[str],
) -> None:
    places = {"EVAL": evaluation, "PLAN": small.with_name("plan.json"), "MODEL": small}
    before = small.read_bytes()
    _, error = run(*(places.get(word, word) for word in flags))
    assert isinstance(error, RecipeError)
    assert small.read_bytes() == before


def test_junit_has_one_case_a_limit_with_the_figures_of_what_failed(run: Run, tmp_path: Path) -> None:
    run("--max-size", "10%", "--max-macs", "100%", "--runtimes", "torch-cuda,onnxruntime-cpu", "--junit", tmp_path / "c.xml")
    root = ElementTree.parse(tmp_path / "c.xml").getroot()
    (suite,) = root
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "skipped": "0",
    }
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert cases.keys() == {"max_size", "max_macs", "runtimes (torch-cuda)", "runtimes (onnxruntime-cpu)"}
    failure = cases["max_size"].find("failure")
    assert failure is not None
    assert "10% of the original" in str(failure.get("message"))
    assert [child.tag for child in cases["max_macs"]] == ["system-out"]


def test_junit_can_be_read_whatever_an_engine_printed(run: Run, demo: Path, small: Path) -> None:
    found = shrinkc.check(demo / "fashion_resnet.onnx", small, max_size="100%")
    bad = Verdict("runtimes", "failed", "a", "\x1b[31mred\x00 <&> \ud800", subject="x\x07", detail="]]>")
    told: Check = replace(found, verdicts=(*found.verdicts, bad, Verdict("min_speedup", "inconclusive", "a", "b")))
    (suite,) = ElementTree.fromstring(render(told).encode())
    assert (suite.get("failures"), suite.get("errors")) == ("1", "1")
    (failure,) = suite.iter("failure")
    assert failure.text == "allowed: a\nfound: ?[31mred? <&> ?\n]]>"


def test_the_summary_is_written_or_appended(run: Run, tmp_path: Path) -> None:
    (tmp_path / "step.md").write_text("before\n")
    flags = ["--markdown", tmp_path / "own.md", "--append-markdown", tmp_path / "step.md"]
    run("--max-size", "10%", *flags)
    own = (tmp_path / "own.md").read_text()
    assert own.startswith("## shrinkc check: failed")
    assert "| max_size | at most" in own
    assert "**failed**" in own
    assert (tmp_path / "step.md").read_text() == "before\n" + own


def test_the_table_says_what_was_allowed_and_found(demo: Path, small: Path) -> None:
    words = ["check", str(demo / "fashion_resnet.onnx"), str(small), "--max-size", "10%"]
    shown = CliRunner().invoke(cli, words).stdout
    assert "10% of the original" in shown
    assert "failed" in shown


def test_every_limit_is_a_flag_and_can_be_read() -> None:
    from shrinkc.limits import READERS

    flags = {option.name for option in cli.commands["check"].params}
    assert READERS.keys() == set(Limits.__dataclass_fields__)
    assert READERS.keys() <= flags
