"""Runs one engine in a process of its own.  Needs Python 3.8, numpy and nothing of shrinkc: boards get this one file.

Messages go over stdin and stdout: a line of JSON, then as many bytes of ``.npz`` as the line says.  A backend is a Python file
with some of these functions, each of which takes a dictionary and returns one: ``probe``, ``supports``, ``convert``; and
``load``, which returns an object with ``effective() -> dict``, ``bind(inputs)``, ``execute()``, ``fetch() -> outputs`` and, if
it likes, ``profile(runs) -> list of dict``.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import platform
import select
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

HERE = os.path.dirname(os.path.abspath(__file__))
if __name__ == "__main__":  # beside this file lie modules named after the engines; `import openvino` must not find those
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != HERE]

import numpy as np  # noqa: E402

CONTENDED_RATIO = 1.25

if TYPE_CHECKING:
    Fields = dict[str, Any]
    Arrays = dict[str, np.ndarray[Any, Any]]
    Reply = tuple[Fields, Arrays]


class Agent:
    """State of one engine process: its backend and, once loaded, a model."""

    def __init__(self) -> None:
        self.backend: Any = None
        self.model: Any = None

    def put(self, request: Fields, arrays: Arrays) -> Reply:
        """Store a file that was sent."""
        with open(request["name"], "wb") as stream:
            stream.write(arrays["bytes"].tobytes())
        return {}, {}

    def get(self, request: Fields, arrays: Arrays) -> Reply:
        """Send a file."""
        with open(request["name"], "rb") as stream:
            return {}, {"bytes": np.frombuffer(stream.read(), np.uint8)}

    def machine(self, request: Fields, arrays: Arrays) -> Reply:
        """What this machine is; no host or user name."""
        system = "{} {}".format(platform.system(), platform.machine())
        return {"processor": _processor(), "cpus": os.cpu_count(), "system": system}, {}

    def use(self, request: Fields, arrays: Arrays) -> Reply:
        """Import the backend."""
        spec = importlib.util.spec_from_file_location("backend", request["path"])
        if spec is None or spec.loader is None:
            raise LookupError(request["path"])
        self.backend = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.backend)
        return {}, {}

    def call(self, request: Fields, arrays: Arrays) -> Reply:
        """One of the backend's functions."""
        return getattr(self.backend, request["function"])(request["arguments"]), {}

    def load(self, request: Fields, arrays: Arrays) -> Reply:
        """Load a model; the answer says what it really runs on."""
        self.model = self.backend.load(request)
        return self.model.effective(), {}

    def run(self, request: Fields, arrays: Arrays) -> Reply:
        """Outputs by name."""
        self.model.bind(arrays)
        self.model.execute()
        return self.model.effective(), self.model.fetch()

    def bench(self, request: Fields, arrays: Arrays) -> Reply:
        """Time runs, without the binding of inputs."""
        self.model.bind(arrays)
        for _ in range(request["warmup"]):
            self.model.execute()
        wall, cpu = _samples(self.model.execute, request["runs"], request["seconds"])
        self.model.fetch()
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        is_contended = request["threads"] == 1 and sum(wall) > CONTENDED_RATIO * sum(cpu)
        return {
            "wall_s": wall,
            "cpu_s": cpu,
            "threads": request["threads"],
            "load_average": load,
            "peak_memory_bytes": _peak_memory(),
            "is_contended": is_contended,
        }, {}

    def profile(self, request: Fields, arrays: Arrays) -> Reply:
        """Times of layers, None if the backend has none."""
        if not hasattr(self.model, "profile"):
            return {"layers": None}, {}
        self.model.bind(arrays)
        return {"layers": self.model.profile(request["runs"])}, {}


def _samples(execute: Callable[[], object], runs: int, seconds: float) -> tuple[list[float], list[float]]:
    wall: list[float] = []
    cpu: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(wall) < runs or (not runs and (not wall or time.perf_counter() < deadline)):
        cpu_started, started = time.process_time(), time.perf_counter()
        execute()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - cpu_started)
    return wall, cpu


def _processor() -> str:
    """Name of the processor; boards with Arm's often say what the board is, and nothing of the processor."""
    for name in ("/proc/cpuinfo", "/proc/device-tree/model"):
        try:
            with open(name, encoding="utf-8", errors="replace") as stream:
                lines = stream.read().replace("\0", "").splitlines()
        except OSError:
            continue
        found = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        if found or (lines and "cpuinfo" not in name):
            return found[0] if found else lines[0].strip()
    return platform.processor() or "unknown"


def _peak_memory() -> int:
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def pack(arrays: Mapping[str, Any]) -> tuple[list[str], bytes]:
    """Names and ``.npz`` bytes of arrays; plain numbers stand for the names, which may hold any character."""
    names = list(arrays)
    if not names:
        return names, b""
    stream = io.BytesIO()
    numbered: Any = {str(index): np.asarray(arrays[name]) for index, name in enumerate(names)}
    np.savez(stream, **numbered)
    return names, stream.getvalue()


def unpack(names: list[str], payload: bytes) -> Arrays:
    """Arrays by name."""
    if not names:
        return {}
    with np.load(io.BytesIO(payload), allow_pickle=False) as archive:
        return {name: archive[str(index)] for index, name in enumerate(names)}


def send(stream: BinaryIO, header: Fields, arrays: Mapping[str, Any]) -> None:
    """Write one message."""
    names, payload = pack(arrays)
    line = json.dumps(dict(header, names=names, size=len(payload)))
    stream.write(line.encode() + b"\n" + payload)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[Fields, Arrays] | None:
    """Read one message; None at the end."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    header = json.loads(line)
    payload = stream.read(header["size"])
    if len(payload) < header["size"]:
        return None
    return header, unpack(header["names"], payload)


def answer(agent: Agent, header: Fields, arrays: Arrays) -> Reply:
    """Result of one request, or what went wrong."""
    try:
        result, found = getattr(agent, header["operation"])(header["request"], arrays)
        return {"ok": True, "result": result}, found
    except BaseException as error:  # an engine may raise anything, SystemExit included
        traceback.print_exc()
        return {"ok": False, "kind": type(error).__name__, "error": str(error)[-2000:]}, {}


def leave_with_parent() -> None:
    """End this process, busy or not, when the other end of stdin is gone: a lost connection must not leave a hung engine."""
    poll = select.poll()
    poll.register(0, 0)
    poll.poll()
    os._exit(1)


def main() -> None:
    """Serve requests until stdin ends."""
    if hasattr(select, "poll"):
        threading.Thread(target=leave_with_parent, daemon=True).start()
    # Engines print to stdout as they please; the answers have a descriptor of their own.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests, agent = sys.stdin.buffer, Agent()
    while True:
        message = receive(requests)
        if message is None:
            break
        result, found = answer(agent, *message)
        send(replies, result, found)
        sys.stderr.flush()
    os._exit(0)  # destructors of engines have crashed processes that were done


if __name__ == "__main__":
    main()
