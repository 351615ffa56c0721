"""Engines on boards: the same protocol over ssh, here to this machine itself."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from models.builder import Net
from shrinkc.runtimes.remote import Board

import shrinkc
from shrinkc import devices, registry
from shrinkc.api import ConvertConfig, RunConfig
from shrinkc.errors import RecipeError, RuntimeUnavailable
from shrinkc.latency import recording
from shrinkc.latency import table as tables
from shrinkc.report import facts

SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
LIKE_SSH = "#!/bin/sh\n# What ssh does, without a network: the last argument is a command for the shell of the other side.\n"


@pytest.fixture
def loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Host name of a server on this machine that lets us in by a key."""
    reason = why_no_server()
    if reason:
        pytest.skip(reason)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "user.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
    }
    (tmp_path / "config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    server = subprocess.Popen([str(SSHD), "-D", "-e", "-f", tmp_path / "config"], stderr=subprocess.DEVNULL)
    known = f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={tmp_path / 'known'} -o LogLevel=ERROR"
    monkeypatch.setenv("SHRINKC_SSH", f"ssh -F none -p {port} -i {tmp_path / 'user'} {known}")
    wait_for(port)
    yield f"{getpass.getuser()}@127.0.0.1"
    server.terminate()
    server.wait()


def why_no_server() -> str:
    if SSHD is None or shutil.which("ssh") is None:
        return "there is no sshd (or no ssh) on this machine"
    if os.getuid() == 0 and ("sshd" not in {entry.pw_name for entry in pwd.getpwall()} or not Path("/run/sshd").is_dir()):
        return "sshd as root needs its user and /run/sshd"
    return ""


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)


@pytest.fixture
def without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A stand-in for ssh that runs the command right here, in a home folder of its own."""
    script = tmp_path / "like-ssh"
    script.write_text(f'{LIKE_SSH}for last; do :; done\nHOME={tmp_path}/board exec /bin/sh -c "$last"\n')
    script.chmod(0o755)
    monkeypatch.setenv("SHRINKC_SSH", str(script))
    return "board"


def agree(host: str, demo: Path) -> None:
    name = f"remote:{host}/onnxruntime-cpu@{sys.executable}"
    model = demo / "fashion_resnet.onnx"
    (result,) = shrinkc.validate(model, model, runtimes=[name], n_inputs=2).results
    assert (result.status, result.level) == ("ok", "validated"), result.reason
    assert result.place == host
    assert result.own[0].max_abs == 0


def test_a_board_over_ssh_computes_the_same(loopback: str, demo: Path) -> None:
    agree(loopback, demo)


def test_the_protocol_needs_nothing_but_a_shell_python_and_numpy(without_network: str, demo: Path, tmp_path: Path) -> None:
    agree(without_network, demo)
    assert [file.name for file in (tmp_path / "board").rglob("*") if file.is_file()] == ["agent.py"]


def test_a_board_is_timed_by_its_own_clock(without_network: str, demo: Path, tmp_path: Path) -> None:
    engine = registry.built("runtimes", f"remote:{without_network}/onnxruntime-cpu@{sys.executable}")
    artifact = engine.convert(demo / "fashion_resnet.onnx", tmp_path, ConvertConfig())
    feed = {port.name: np.zeros(port.shape, port.dtype) for port in artifact.signature.inputs}
    with engine.open(artifact, RunConfig()) as session:
        measured = session.bench(feed, runs=3)
    assert len(measured.wall_s) == 3
    assert min(measured.cpu_s) > 0


def test_a_board_that_cannot_be_reached_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo: Path) -> None:
    script = tmp_path / "no-ssh"
    script.write_text("#!/bin/sh\necho 'ssh: connect to host board port 22: Connection refused' >&2\nexit 255\n")
    script.chmod(0o755)
    monkeypatch.setenv("SHRINKC_SSH", str(script))
    model = demo / "fashion_resnet.onnx"
    (result,) = shrinkc.validate(model, model, runtimes=["remote:board/onnxruntime-cpu"], n_inputs=1).results
    assert result.status == "not run"
    assert "Connection refused" in result.reason


@pytest.mark.parametrize("address", ["board", "/ncnn", "board/no-such-engine"])
def test_an_address_without_host_or_engine_is_refused(address: str) -> None:
    with pytest.raises(RecipeError, match="HOST/ENGINE"):
        registry.built("runtimes", f"remote:{address}")


def test_without_ssh_there_is_no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHRINKC_SSH", "no-such-program")
    with pytest.raises(RuntimeUnavailable, match="no ssh"):
        registry.built("runtimes", "remote:board/ncnn")


def test_a_board_is_calibrated_by_its_own_engine_in_one_process(
    without_network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks are not what is tested here; a layer's grid is timed there, and the table says of which machine it is."""
    for name, value in {"BLOCK_SIZES": (2,), "BLOCK_TRIES": 1, "PROBE_SIZE": 4, "PROBE_WIDTH": 4}.items():
        monkeypatch.setattr(recording, name, value)
    started: list[Board] = []
    deploy = Board._deployed
    monkeypatch.setattr(Board, "_deployed", lambda board: started.append(board) or deploy(board))
    net = Net()
    net.op("Gemm", net.input("x", [1, 6]), net.weight(8, 6), transB=1)
    net.nodes[-1].output[0] = "y"
    net.output("y")
    onnx.save(net.model(), str(tmp_path / "net.onnx"))
    runtime = f"remote:{without_network}/onnxruntime-cpu@{sys.executable}"
    devices.calibrate("jetson", [tmp_path / "net.onnx"], tmp_path / "board.json", runtime=runtime)
    found = tables.read(tmp_path / "board.json")
    ((spec, points),) = found.layers.items()
    assert (spec.op_type, len(started)) == ("Gemm", 1)
    assert max(points) == (6, 8)
    assert all(seconds >= 0 for seconds in points.values())
    assert (found.runtime, found.version) == (runtime, onnxruntime.__version__)
    assert found.machine == facts.machine(), "the board is this machine"
