"""A process boundary around an engine: it may crash, hang or print what it likes; the caller gets an error with a reason."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, cast

from numpy.typing import NDArray
from shrinkc.runtimes import agent

from shrinkc.api import THIS_MACHINE
from shrinkc.errors import BuildError, RuntimeUnavailable

AGENT = Path(__file__).with_name("agent.py")
LOG_LINES = 6
START_TIMEOUT_S = 120.0
CLOSE_TIMEOUT_S = 3.0

Arrays = Mapping[str, NDArray[Any]]


class Place(Protocol):
    """Where a child process runs."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def can_be_timed(self) -> bool:
        """Whether a time measured there means anything."""

    def command(self, scratch: Path, threads: int) -> list[str]:
        """Program and arguments that start the agent.

        Raises
        ------
        RuntimeUnavailable
            The place cannot be reached.
        """

    def environment(self, scratch: Path, threads: int) -> dict[str, str]:
        """All of the child's environment."""

    @property
    def is_here(self) -> bool:
        """Whether it is this machine, this processor and the installed packages."""

    def bring(self, child: Child, file: Path) -> str:
        """Make a file readable to the child; returns its path there."""

    def folder(self, folder: Path) -> str:
        """Where the child writes what belongs into a folder of ours."""

    def fetch(self, child: Child, name: str, folder: Path) -> None:
        """Bring a file that the child wrote there into the folder."""


KEPT = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_MODULE_LOADING", "SYSTEMROOT", "QEMU_LD_PREFIX")
"""Variables an engine may need to find its libraries; everything else stays outside."""


@dataclass(frozen=True)
class Here:
    """On this machine, with this Python or another one.

    Attributes
    ----------
    python : tuple of str
        Program and arguments that stand before the agent's path.
    name : str
    variables : mapping
        Set in the child's environment besides the usual ones.
    can_be_timed : bool
        Whether a time measured there means anything.
    is_here : bool
    """

    python: tuple[str, ...] = (sys.executable,)
    name: str = THIS_MACHINE
    variables: Mapping[str, str] = field(default_factory=dict)
    can_be_timed: bool = True
    is_here: bool = True

    def command(self, scratch: Path, threads: int) -> list[str]:
        """Python and the agent."""
        return [*self.python, str(AGENT)]

    def environment(self, scratch: Path, threads: int) -> dict[str, str]:
        """Nothing of the caller's but what :data:`KEPT` names; no program can be found by name, ``pip`` in particular."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        return {**kept, **child_variables(threads), "PATH": "", "HOME": str(scratch), "TMPDIR": str(scratch), **self.variables}

    def bring(self, child: Child, file: Path) -> str:
        """It is readable where it is."""
        return str(file.resolve())

    def folder(self, folder: Path) -> str:
        """The folder itself."""
        return str(folder.resolve())

    def fetch(self, child: Child, name: str, folder: Path) -> None:
        """It is there already."""


def child_variables(threads: int) -> dict[str, str]:
    """What every engine's process is told, wherever it runs.

    OpenMP shall wait without burning time: with the default, two threads on a busy machine take seconds instead of ms.  What is
    called float32 shall be that on NVIDIA's cards, too, whose libraries take TF32 (ten bits of mantissa) by themselves.  And
    onnxruntime shall not report to its makers.
    """
    return {
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": str(max(1, threads)),
        "OPENBLAS_NUM_THREADS": "1",
        "LANG": "C.UTF-8",
        "NVIDIA_TF32_OVERRIDE": "0",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


HERE = Here()


class Child:
    """A process of its own for one engine.

    Parameters
    ----------
    backend : Path
        See :mod:`shrinkc.runtimes.agent`.
    place : Place
    threads : int

    Raises
    ------
    RuntimeUnavailable
        The process cannot be started.
    """

    def __init__(self, backend: Path, place: Place = HERE, threads: int = 1) -> None:
        self.place = place
        self.scratch = Path(tempfile.mkdtemp(prefix="shrinkc-engine-"))
        self._log = self.scratch / "log"
        try:
            self._process = self._started(threads)
            self.request("use", {"path": place.bring(self, backend)}, timeout_s=START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def _started(self, threads: int) -> subprocess.Popen[bytes]:
        command = self.place.command(self.scratch, threads)
        try:
            with self._log.open("wb") as log:
                return subprocess.Popen(  # noqa: S603
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self.scratch,
                    env=self.place.environment(self.scratch, threads),
                    start_new_session=True,
                )
        except OSError as error:
            raise RuntimeUnavailable(
                "a process for the engine cannot be started", where=command[0], because=str(error)
            ) from error

    def request(
        self, operation: str, request: Mapping[str, Any], arrays: Arrays | None = None, *, timeout_s: float = 300.0
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Have the child do something.

        Raises
        ------
        RuntimeUnavailable
            A module or library of the engine is missing.
        BuildError
            The engine raises, its process ends (the reason names the signal), or it does not answer in time.
        """
        reply = self._exchange({"operation": operation, "request": dict(request)}, arrays or {}, timeout_s)
        if isinstance(reply, str):
            raise BuildError("the engine's process ended", because=with_log(reply, self.log()))
        header, found = reply
        if not header["ok"]:
            raise _error(header)
        return header["result"], found

    def _exchange(self, header: dict[str, Any], arrays: Arrays, timeout_s: float) -> tuple[dict[str, Any], Any] | str:
        """The reply, or why there is none."""
        is_late = threading.Event()
        watchdog = threading.Timer(timeout_s, self._give_up, [is_late])
        watchdog.daemon = True
        watchdog.start()
        try:
            agent.send(cast(BinaryIO, self._process.stdin), header, arrays)
            reply = agent.receive(cast(BinaryIO, self._process.stdout))
        except (BrokenPipeError, ConnectionResetError):
            reply = None
        finally:
            watchdog.cancel()
        if reply is not None:
            return cast(tuple[dict[str, Any], Any], reply)
        if is_late.is_set():
            return f"no answer within {timeout_s:g} s"
        return ending(self._wait())

    def _give_up(self, is_late: threading.Event) -> None:
        is_late.set()
        self._kill()

    def _wait(self) -> int:
        try:
            return self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._kill()
            return self._process.wait()

    def _kill(self) -> None:
        """End the process and whatever it started."""
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def log(self) -> list[str]:
        """What the engine printed, by lines."""
        try:
            return self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []

    def close(self) -> None:
        """End the process and remove its scratch folder; more than once does no harm."""
        process = getattr(self, "_process", None)
        if process is not None and process.poll() is None:
            with suppress(OSError):
                process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(CLOSE_TIMEOUT_S)
            self._kill()
            process.wait()
        for stream in (process.stdin, process.stdout) if process is not None else ():
            with suppress(OSError):
                stream.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def ending(code: int) -> str:
    """How a process ended, in words.

    Examples
    --------
    >>> ending(-11), ending(3)
    ('ended by SIGSEGV', 'ended with exit code 3')
    """
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"


def with_log(reason: str, log: list[str]) -> str:
    """A reason and the last lines of a log, on one line."""
    lines = [line.strip() for line in log if line.strip()][-LOG_LINES:]
    return "; ".join([reason, *([f"log: {' | '.join(lines)[-600:]}"] if lines else [])])


def _error(header: Mapping[str, Any]) -> RuntimeUnavailable | BuildError:
    text = "; ".join(line.strip() for line in str(header["error"]).splitlines()) or "no message"
    if header["kind"] in ("ModuleNotFoundError", "ImportError"):
        return RuntimeUnavailable("the engine cannot be imported", because=text)
    if header["kind"] == "LookupError":
        return RuntimeUnavailable("the engine is not usable here", because=text)
    if header["kind"] == "NotImplementedError":
        return BuildError("the engine refuses the model", because=text)
    return BuildError("the engine fails", because=f"{header['kind']}: {text}")


def is_importable(module: str) -> bool:
    """Whether a module is installed, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
