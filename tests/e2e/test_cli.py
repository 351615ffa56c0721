"""The command line as a user meets it: its exit code, what it prints where, what it leaves behind.

The main job, JSON on stdout, silence, the traceback and interrupts are seen in processes of their own; the rest runs here, as
every process takes seconds to start.
"""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import pytest
from models.attention_topologies import ATTENTION
from models.builder import Net
from models.topologies import TOPOLOGIES

from shrinkc.cli import main

SHRINKC = str(Path(sys.executable).with_name("shrinkc"))
Save = Callable[..., Path]


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line in this process, in a folder."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["shrinkc", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return subprocess.CompletedProcess(sys.argv, int(str(ended.value.code)), out.getvalue(), err.getvalue())


def run_process(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SHRINKC, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False, timeout=120)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_the_main_job_prints_a_table_and_writes_model_and_reports(saved: Save, tmp_path: Path) -> None:
    saved(TOPOLOGIES["projection_shortcut"]())
    result = run_process("compress", "model.onnx", "--macs", "50%", "--round-to", "1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for word in ("MACs", "parameters", "file size", "latency", "Quality was NOT measured", "Proof: passed", "Kept whole"):
        assert word in result.stdout
    assert files(tmp_path) == [
        "model.onnx",
        "model.shrunk.onnx",
        "model.shrunk.recipe.json",
        "model.shrunk.report.json",
        "model.shrunk.report.md",
    ]
    onnx.checker.check_model(str(tmp_path / "model.shrunk.onnx"))


def test_a_recipe_file_sets_what_flags_do_not_and_is_written_resolved(saved: Save, tmp_path: Path) -> None:
    saved(TOPOLOGIES["chain"]())
    (tmp_path / "own.toml").write_text('macs = "40%"\nround_to = 1\ncriterion = "l1"\noptimize = false\n')
    options = ["--recipe", "own.toml", "--prune-ratio", "0.25", "--no-latency", "-v"]
    result = run("compress", "model.onnx", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "marginal" in result.stdout
    recipe = json.loads((tmp_path / "model.shrunk.recipe.json").read_text())
    wanted = {"macs": None, "prune_ratio": 0.25, "criterion": "l1", "round_to": 1, "optimize": False, "verify": True}
    assert {name: recipe[name] for name in wanted} == wanted
    assert [row["channels_after"] for row in json.loads((tmp_path / "model.shrunk.report.json").read_text())["groups"]] == [
        6,
        9,
    ]


def test_json_on_stdout_is_the_report_and_nothing_else(saved: Save, tmp_path: Path) -> None:
    saved(TOPOLOGIES["chain"]())
    result = run_process("compress", "model.onnx", "--prune-ratio", "0.5", "--round-to", "1", "--json", "-v", cwd=tmp_path)
    report = json.loads(result.stdout)
    assert report == json.loads((tmp_path / "model.shrunk.report.json").read_text())
    assert report["schema"] == "shrinkc.report/1"
    assert report["quality"]["is_measured"] is False
    assert report["latency"]["before"]["wall_median_s"] > 0
    assert "analysing channels" in result.stderr


def test_quiet_prints_nothing(saved: Save, tmp_path: Path) -> None:
    saved(TOPOLOGIES["chain"]())
    result = run_process("compress", "model.onnx", "--quiet", "--no-latency", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_dry_run_writes_recipe_and_plan_and_changes_nothing(saved: Save, tmp_path: Path) -> None:
    saved(TOPOLOGIES["chain"]())
    result = run("compress", "model.onnx", "--dry-run", "-o", "out.onnx", "--params", "50%", cwd=tmp_path)
    assert result.returncode == 0
    assert "predicted" in result.stdout
    assert files(tmp_path) == ["model.onnx", "out.plan.json", "out.recipe.json"]
    replay = run("compress", "model.onnx", "--plan", "out.plan.json", "--no-latency", cwd=tmp_path)
    assert replay.returncode == 0, replay.stderr


def test_jetson_says_plainly_that_no_engine_was_built(saved: Save, tmp_path: Path) -> None:
    saved(TOPOLOGIES["projection_shortcut"]())
    result = run("compress", "model.onnx", "--target", "jetson", "--prune-ratio", "0.5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "no tensorrt engine was built or timed" in result.stdout
    report = json.loads((tmp_path / "model.shrunk.report.json").read_text())
    levels = {level["runtime"]: level["level"] for level in report["runtimes"]}
    assert levels == {"onnxruntime-cpu": "timed", "tensorrt": "not run"}
    assert report["recipe"]["round_to"] == 8


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["compress"], 2, ["error: Missing argument", "  try: shrinkc compress --help"]),
        (["compress", "model.onnx", "--macs", "lots"], 2, ["not a budget", "try:"]),
        (["compress", "model.onnx", "--macs", "50%", "--prune-ratio", "0.5"], 2, ["contradict"]),
        (["compress", "model.onnx", "--prune-ratio", "1.5"], 2, ["between 0 and 1"]),
        (["compress", "model.onnx", "--target", "toaster"], 2, ["no target", "cpu, cuda"]),
        (["compress", "model.onnx", "--criterion", "guess"], 2, ["no criterion of that name", "l1, l2"]),
        (["compress", "model.onnx", "--recipe", "slimming-7"], 2, ["no such recipe", "slimming-70"]),
        (
            ["compress", "model.onnx", "--allocator", "preset:li-vgg16-a"],
            2,
            ["another model: VGG-16", "expects 13", "found: 2"],
        ),
        (["compress", "model.onnx", "--exclude", "ghost*"], 2, ["matches no group", "ghost*"]),
        (["compress", "model.onnx", "--round-to", "0"], 2, ["at least 1"]),
        (["compress", "model.onnx", "--seed", "-1"], 2, ["--seed"]),
        (["compress", "model.onnx", "--save-plan", "model.onnx"], 2, ["overwrite a file that is read"]),
        (["compress", "model.onnx", "--save-plan", "model.shrunk.onnx"], 2, ["this run writes too"]),
        (["compress", "model.onnx", "--save-plan", "model.shrunk.report.json"], 2, ["this run writes too"]),
        (["compress", "model.onnx", "--data", "ok.npz", "--save-plan", "ok.npz"], 2, ["overwrite a file that is read"]),
        (["compress", "model.onnx", "-o", "broken.onnx/out.onnx"], 2, ["cannot be written there"]),
        (["compress", "model.onnx", "--input-shapes", "x:1x3x8x8", "--input-shapes", "x:1x3x9x9"], 2, ["twice"]),
        (["compress", "model.onnx", "--input-shapes", "x=3"], 2, ["is not a shape"]),
        (["compress", "model.onnx", "--input-shapes", "y:1x3x8x8"], 2, ["no such model input", "x"]),
        (["compress", "model.onnx", "--input-shapes", "x:1x4x8x8"], 2, ["contradicts the model"]),
        (["compress", "model.onnx", "--threads", "2", "--no-latency"], 2, ["no effect"]),
        (["compress", "model.onnx", "--dry-run", "--no-verify"], 2, ["no effect"]),
        (["compress", "model.onnx", "--plan", "p.json", "--macs", "50%"], 2, ["no effect"]),
        (["compress", "model.onnx", "--plan", "p.json"], 2, ["plan cannot be read"]),
        (["compress", "model.onnx", "-q", "-v"], 2, ["contradict"]),
        (["compress", "model.onnx", "-o", "model.onnx"], 2, ["overwrite"]),
        (["compress", "model.onnx", "--params", "100M"], 2, ["within the budget already"]),
        (["compress", "ghost.onnx"], 3, ["does not exist", "at:"]),
        (["compress", "broken.onnx"], 3, ["not a readable ONNX model"]),
        (["compress", "model.onnx", "--macs", "0.1%"], 4, ["no admissible plan", "at best", "these bind"]),
        (["compress", "frozen.onnx"], 4, ["nothing in this model can be removed", "because:"]),
        (["compress", "model.onnx", "--data", "wrong.npz"], 8, ["does not name the model's inputs"]),
        (["compress", "model.onnx", "--data", "ghost.npz"], 8, ["cannot be read"]),
        (["inspect", "broken.onnx"], 3, ["not a readable ONNX model"]),
        (["inspect", "model.onnx", "--include", "nope"], 2, ["matches no group"]),
    ],
)
def test_mistakes_get_their_exit_code_one_message_and_no_file(
    arguments: list[str], code: int, words: list[str], saved: Save, tmp_path: Path
) -> None:
    saved(TOPOLOGIES["chain"]())
    saved(frozen(), "frozen.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07garbage")
    np.savez(tmp_path / "wrong.npz", y=np.zeros(3))
    np.savez(tmp_path / "ok.npz", x=np.zeros((2, 3, 12, 12), np.float32))
    before = files(tmp_path)
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    for word in words:
        assert word in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert files(tmp_path) == before


def frozen() -> Net:
    """A model in which every channel is an output."""
    net = Net()
    net.output(net.conv(net.input("x", ["n", 3, 12, 12]), 3, 8))
    return net


@pytest.mark.parametrize("name", ["shared_weight", "shared_reshape_target", "weights_in_constant_nodes", "shuffle_units"])
@pytest.mark.parametrize("surgery_only", [False, True])
def test_a_budget_of_bytes_holds_for_the_file_that_is_written(
    name: str, surgery_only: bool, saved: Save, tmp_path: Path
) -> None:
    path = saved(TOPOLOGIES[name]())
    options = ["--size", "85%", "--round-to", "1", "--no-latency", "--no-verify"]
    result = run("compress", "model.onnx", *options, *(["--no-optimize"] if surgery_only else []), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "model.shrunk.onnx").stat().st_size <= 0.85 * path.stat().st_size


def test_clean_up_adds_no_shapes_that_were_not_there(saved: Save, tmp_path: Path) -> None:
    path = saved(TOPOLOGIES["projection_shortcut"]())
    assert not onnx.load(str(path)).graph.value_info
    run("compress", "model.onnx", "--no-latency", cwd=tmp_path)
    assert not onnx.load(str(tmp_path / "model.shrunk.onnx")).graph.value_info


def test_sizes_that_were_assumed_are_named(saved: Save, tmp_path: Path) -> None:
    saved(TOPOLOGIES["shared_resize_sizes"]())
    options = ["--prune-ratio", "0.5", "--round-to", "1", "--no-latency", "--no-verify"]
    assumed = run("compress", "model.onnx", *options, cwd=tmp_path)
    assert "Free sizes were assumed" in assumed.stdout
    assert "x 1x3x224x224" in assumed.stdout
    given = run("compress", "model.onnx", *options, "--input-shapes", "x:[1,3,16,16]", cwd=tmp_path)
    assert given.returncode == 0, given.stderr
    assert "assumed" not in given.stdout
    assert json.loads((tmp_path / "model.shrunk.report.json").read_text())["input_shapes"] == {"x": [1, 3, 16, 16]}


def test_debug_shows_the_traceback_and_keeps_the_exit_code(tmp_path: Path) -> None:
    result = run_process("compress", "ghost.onnx", "--debug", cwd=tmp_path)
    assert result.returncode == 3
    assert "Traceback" in result.stderr


def test_exclude_and_include_choose_groups_by_node_tensor_or_group_name(saved: Save, tmp_path: Path) -> None:
    saved(TOPOLOGIES["chain"]())
    options = ["--prune-ratio", "0.5", "--round-to", "1", "--no-latency", "--json"]
    excluded = json.loads(run("compress", "model.onnx", "--exclude", "Conv_0", *options, cwd=tmp_path).stdout)
    included = json.loads(run("compress", "model.onnx", "--include", "Conv_3", *options, cwd=tmp_path).stdout)
    assert [(g["channels_before"], g["channels_after"]) for g in excluded["groups"]] == [(12, 6)]
    assert excluded["groups"] == included["groups"]
    assert any("--exclude Conv_0" in r["blocker"]["reason"] for r in excluded["refusals"])


def test_inspect_lists_groups_and_reasons(saved: Save, tmp_path: Path) -> None:
    saved(TOPOLOGIES["unknown_operator"]())
    result = run("inspect", "model.onnx", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "com.acme::Mystery" in result.stdout
    data = json.loads(run("inspect", "model.onnx", "--json", cwd=tmp_path).stdout)
    assert {group["channels"] for group in data["groups"]} == {8, 12}
    refusal = next(r for r in data["refusals"] if "Mystery" in r["blocker"]["reason"])
    assert refusal["channels"] == 8
    assert refusal["parameters"] == 8 * 27
    assert refusal["macs"] == 12 * 12 * 8 * 27
    assert "register a rule" in refusal["remedy"]
    assert 0.2 < data["prunable_macs"] < 1
    members = {(member["tensor"], member["axis"], member["role"]) for group in data["groups"] for member in group["members"]}
    assert ("c0", 0, "produces") not in members
    assert ("c10", 0, "produces") in members
    assert files(tmp_path) == ["model.onnx"]


def test_inspect_explains_one_node(saved: Save, tmp_path: Path) -> None:
    saved(TOPOLOGIES["unknown_operator"]())
    result = run("inspect", "model.onnx", "--why", "Mystery_*", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "8: stays: no rule for operator com.acme::Mystery" in result.stdout
    assert "try: register a rule" in result.stdout
    data = json.loads(run("inspect", "model.onnx", "--why", "Gemm_*", "--json", cwd=tmp_path).stdout)
    states = {(axis["place"].split(" (")[0], axis["axis"]): axis["state"] for axis in data["axes"]}
    assert states[("output 0", 1)].startswith("stays: graph output")
    assert states[("input 1", 1)].startswith("prunable in ")
    refused = run("inspect", "model.onnx", "--why", "Conv_*", cwd=tmp_path)
    assert refused.returncode == 2
    assert "nodes fit: Conv_" in refused.stderr
    assert "no node or output has that name" in run("inspect", "model.onnx", "--why", "nobody", cwd=tmp_path).stderr
    assert "no effect" in run("inspect", "model.onnx", "--why", "Gemm_*", "--exclude", "c0", cwd=tmp_path).stderr


def test_a_normalised_stream_is_off_until_asked_for_and_says_so(saved: Save, tmp_path: Path) -> None:
    saved(ATTENTION["encoder_of_two_blocks"]())
    data = json.loads(run("inspect", "model.onnx", "--json", cwd=tmp_path).stdout)
    assert {group["kind"] for group in data["groups"]} == {"heads", "mlp"}
    refusal = next(r for r in data["refusals"] if "residual stream" in r["blocker"]["reason"])
    assert refusal["remedy"] == "--prune conv,mlp,heads,stream"
    asked = json.loads(run("inspect", "model.onnx", "--json", "--prune", "stream,head-dim", cwd=tmp_path).stdout)
    assert {group["kind"] for group in asked["groups"]} == {"stream", "head-dim"}
    wrong = run("inspect", "model.onnx", "--prune", "streams", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "known: conv, mlp, heads, head-dim, stream" in wrong.stderr


def test_a_plan_made_with_switches_is_replayed_with_them(saved: Save, tmp_path: Path) -> None:
    saved(ATTENTION["encoder_of_two_blocks"]())
    first = ["compress", "model.onnx", "-o", "a.onnx", "--save-plan", "p.json", "--no-latency", "--prune-ratio", "0.5"]
    assert run(*first, "--prune", "head-dim,stream", cwd=tmp_path).returncode == 0
    again = run("compress", "model.onnx", "-o", "b.onnx", "--plan", "p.json", "--no-latency", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_partial_file(sent: signal.Signals, saved: Save, tmp_path: Path) -> None:
    saved(TOPOLOGIES["projection_shortcut"]())
    for delay in (0.4, 0.8, 1.2):
        process = subprocess.Popen(
            [SHRINKC, "compress", "model.onnx", "-o", "out.onnx", "--no-latency"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        time.sleep(delay)
        process.send_signal(sent)
        process.communicate(timeout=60)
        for name in files(tmp_path):
            assert name in {
                "model.onnx", "out.onnx", "out.recipe.json", "out.report.json", "out.report.md"
            }, "nothing but whole results"  # fmt: skip
        if (tmp_path / "out.onnx").exists():
            onnx.checker.check_model(str(tmp_path / "out.onnx"))


def test_the_python_api_does_the_same_and_returns_the_report(saved: Save, tmp_path: Path) -> None:
    import shrinkc

    path = saved(TOPOLOGIES["chain"]())
    report = shrinkc.compress(path, output=tmp_path / "api.onnx", macs="50%", round_to=1, measure_latency=False)
    run("compress", "model.onnx", "-o", "cli.onnx", "--macs", "50%", "--round-to", "1", "--no-latency", cwd=tmp_path)
    assert (tmp_path / "api.onnx").read_bytes() == (tmp_path / "cli.onnx").read_bytes()
    assert report.to_json()["recipe"] == json.loads((tmp_path / "cli.report.json").read_text())["recipe"]


def test_help_pages_keep_the_lines_of_their_examples(tmp_path: Path) -> None:
    assert "\n  shrinkc compress model.onnx --macs 50% --data samples.npz\n" in run("compress", "--help", cwd=tmp_path).stdout
    for page in (["bench"], ["check"], ["profile"], ["quantize"], ["targets", "read"], ["targets", "calibrate"], ["validate"]):
        shown = run(*page, "--help", cwd=tmp_path).stdout
        assert "\\b" not in shown
        assert f"\n  shrinkc {' '.join(page)} " in shown
