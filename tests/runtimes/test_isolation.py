"""What an engine's process may do without harm to ours."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from shrinkc.runtimes.isolation import Child

from shrinkc.errors import BuildError, RuntimeUnavailable


def child(folder: Path, source: str) -> Child:
    backend = folder / "backend.py"
    backend.write_text(source, encoding="utf-8")
    return Child(backend)


def call(process: Child, function: str = "act", timeout_s: float = 30.0) -> dict[str, object]:
    return process.request("call", {"function": function, "arguments": {}}, timeout_s=timeout_s)[0]


def test_a_crash_is_an_error_that_names_the_signal(tmp_path: Path) -> None:
    source = "import os, signal\ndef act(request):\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
    with child(tmp_path, source) as process, pytest.raises(BuildError, match="SIGSEGV"):
        call(process)


def test_a_hang_ends_in_time_with_what_it_started(tmp_path: Path) -> None:
    """The converter is a program the child starts: it must go, too."""
    note = tmp_path / "pid"
    source = (
        "import subprocess, sys\ndef act(request):\n"
        "    late = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"    open({str(note)!r}, 'w').write(str(late.pid))\n    late.wait()\n"
    )
    with child(tmp_path, source) as process, pytest.raises(BuildError, match="no answer within 2 s"):
        call(process, timeout_s=2)
    deadline = time.monotonic() + 5
    while is_running(int(note.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(int(note.read_text()))


def is_running(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_prints_of_an_engine_do_not_disturb_the_answers(tmp_path: Path) -> None:
    source = "import os\ndef act(request):\n    print('hello'); os.write(1, b'native {}\\n'); return {'answer': 42}\n"
    with child(tmp_path, source) as process:
        assert call(process) == {"answer": 42}
        assert any("native" in line for line in process.log())


def test_an_engine_that_exits_or_raises_is_an_error_and_lives_on(tmp_path: Path) -> None:
    source = "def act(request):\n    raise SystemExit(3)\ndef other(request):\n    return {'alive': True}\n"
    with child(tmp_path, source) as process:
        with pytest.raises(BuildError, match="SystemExit"):
            call(process)
        assert call(process, "other") == {"alive": True}


def test_a_missing_module_says_that_the_engine_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match="no_such_engine"):
        child(tmp_path, "import no_such_engine\n")


def test_nothing_of_our_environment_and_no_program_is_within_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    source = (
        "import os, shutil\ndef act(request):\n"
        "    return {'token': os.environ.get('SOME_TOKEN'), 'pip': shutil.which('pip'), 'home': os.environ['HOME'],\n"
        "            'waiting': os.environ['OMP_WAIT_POLICY'], 'folder': os.getcwd()}\n"
    )
    with child(tmp_path, source) as process:
        found = call(process)
        assert found["token"] is None
        assert found["pip"] is None
        assert found["waiting"] == "passive"
        assert found["home"] == found["folder"] == str(process.scratch)
    assert not process.scratch.exists()
    assert os.environ["HOME"] != found["home"]


def test_arrays_come_back_as_they_went(tmp_path: Path) -> None:
    source = (
        "class Echo:\n    def effective(self): return {}\n    def bind(self, inputs): self.inputs = inputs\n"
        "    def execute(self): pass\n    def fetch(self): return self.inputs\n"
        "def load(request): return Echo()\n"
    )
    arrays = {
        "a/b:0 ü": np.float32(2.5).reshape(()),
        "file": np.arange(6, dtype=np.int64).reshape(2, 3).T,
        "half": np.array([[np.nan, np.inf]], np.float16),
        "none": np.zeros((0, 4), np.bool_),
    }
    with child(tmp_path, source) as process:
        process.request("load", {})
        _, found = process.request("run", {}, arrays)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_bench_counts_what_it_ran_and_the_time_it_took(tmp_path: Path) -> None:
    source = (
        "import time\nclass Sleeper:\n    runs = 0\n    def effective(self): return {}\n    def bind(self, inputs): pass\n"
        "    def execute(self): Sleeper.runs += 1; time.sleep(0.02)\n    def fetch(self): return {}\n"
        "def load(request): return Sleeper()\ndef act(request): return {'runs': Sleeper.runs}\n"
    )
    with child(tmp_path, source) as process:
        process.request("load", {})
        found, _ = process.request("bench", {"runs": 5, "seconds": 0, "warmup": 2, "threads": 1})
        assert call(process) == {"runs": 7}
    assert len(found["wall_s"]) == len(found["cpu_s"]) == 5
    assert min(found["wall_s"]) >= 0.02
    assert found["is_contended"], "sleeping is time in which something else had the processor"
    assert found["peak_memory_bytes"] > 1e6
