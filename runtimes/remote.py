"""Engines on a board, over ssh: models are converted here, and sent; one Python file, numpy and the engine are needed there.

TensorRT builds its engines there, too.

``remote:HOST/ENGINE``, HOST as ssh takes it (a name of its configuration, say).  Keys must be in place: nothing is asked for.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from shrinkc.runtimes.elsewhere import Elsewhere
from shrinkc.runtimes.isolated import IsolatedEngine
from shrinkc.runtimes.isolation import AGENT, Child, child_variables
from shrinkc.runtimes.mnn import Mnn
from shrinkc.runtimes.ncnn import Ncnn
from shrinkc.runtimes.onnxruntime_cpu import OnnxRuntimeCpu
from shrinkc.runtimes.openvino import OpenVino
from shrinkc.runtimes.tensorrt import TensorRt

from shrinkc.errors import RecipeError, RuntimeUnavailable

ENGINES: dict[str, type[IsolatedEngine]] = {
    "mnn": Mnn,
    "ncnn": Ncnn,
    "onnxruntime-cpu": OnnxRuntimeCpu,
    "openvino": OpenVino,
    "tensorrt": TensorRt,
}

COMMAND = "SHRINKC_SSH"
"""What stands before the host's name; ssh with a key of its own, say.  [default: ssh]"""

OPTIONS = ("-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10")
DEPLOY_TIMEOUT_S = 60
KEPT = ("HOME", "PATH", "SSH_AUTH_SOCK", "USER", "LOGNAME")
"""What ssh itself needs; nothing of it reaches the board."""


@dataclass(frozen=True)
class Board:
    """Another machine; ``python`` is the one that has the engine there."""

    host: str
    python: str = "python3"
    can_be_timed: bool = True
    is_here: bool = False

    @property
    def name(self) -> str:
        """The host."""
        return self.host

    def _ssh(self) -> list[str]:
        return [*shlex.split(os.environ.get(COMMAND, "ssh")), *OPTIONS, self.host]

    def command(self, scratch: Path, threads: int) -> list[str]:
        """Send the agent, then ssh that runs it in a folder of its own, which goes when it ends.

        Raises
        ------
        RuntimeUnavailable
            The board cannot be reached.
        """
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in child_variables(threads).items())
        agent = self._deployed()
        run = f'd=$(mktemp -d) && cd "$d" && env {variables} {self.python} {agent}; s=$?; cd / && rm -rf "$d"; exit $s'
        return [*self._ssh(), run]

    def _deployed(self) -> str:
        """Path of the agent there, relative to the home folder; it is written anew each time, renamed into place."""
        folder = '"$HOME/.cache/shrinkc"'
        text = f"mkdir -p {folder} && cat > {folder}/agent.$$ && mv {folder}/agent.$$ {folder}/agent.py"
        try:
            done = subprocess.run(  # noqa: S603
                [*self._ssh(), text], input=AGENT.read_bytes(), capture_output=True, timeout=DEPLOY_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeUnavailable("the board cannot be reached", where=self.host, because=str(error)) from error
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise RuntimeUnavailable("the board cannot be reached", where=self.host, because=reason[0])
        return f"{folder}/agent.py"

    def environment(self, scratch: Path, threads: int) -> dict[str, str]:
        """What ssh needs."""
        return {name: os.environ[name] for name in KEPT if name in os.environ}

    def bring(self, child: Child, file: Path) -> str:
        """Send the file into the agent's folder."""
        child.request("put", {"name": file.name}, {"bytes": np.fromfile(file, np.uint8)})
        return file.name

    def folder(self, folder: Path) -> str:
        """The agent's own."""
        return "."

    def fetch(self, child: Child, name: str, folder: Path) -> None:
        """Have the file sent."""
        _, found = child.request("get", {"name": name})
        (folder / name).write_bytes(found["bytes"].tobytes())


def remote(host_and_engine: str) -> Elsewhere:
    """Engine on a board, from ``HOST/ENGINE`` or ``HOST/ENGINE@PYTHON`` (path of Python there).

    Raises
    ------
    RecipeError
        The text names no host or no engine.
    RuntimeUnavailable
        There is no ssh here.
    """
    host, _, rest = host_and_engine.partition("/")
    engine, _, python = rest.partition("@")
    if not host or engine not in ENGINES:
        raise RecipeError(
            "no board and engine", where=host_and_engine, hint=f"write HOST/ENGINE, ENGINE of {', '.join(ENGINES)}"
        )
    if shutil.which(shlex.split(os.environ.get(COMMAND, "ssh"))[0]) is None:
        raise RuntimeUnavailable("there is no ssh here", where=host_and_engine, hint="install an ssh client")
    return Elsewhere(f"remote:{host_and_engine}", ENGINES[engine](Board(host, python or "python3")))
