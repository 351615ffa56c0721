"""Running one process of a benchmark: what it answers and what it costs."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Outcome:
    """JSON on the last line a process printed, what it cost, and the end of what it complained about."""

    answer: dict[str, Any]
    cpu_s: float
    peak_bytes: int
    complaint: str


def run(*command: object) -> Outcome:
    """Run a process on one thread; one that ends badly answers ``failed``.

    Keep the process that calls this small: a child's peak memory starts at its parent's size.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        parts = [str(part) for part in command]
        process = subprocess.Popen(parts, stdout=out, stderr=err, env={**os.environ, **ONE_THREAD})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        printed, complaint = out.read().decode(), err.read().decode()[-2000:]
    answer = _answer(process.returncode, printed, complaint)
    return Outcome(answer, round(usage.ru_utime + usage.ru_stime, 2), usage.ru_maxrss * 1024, complaint)


def announced(*command: object) -> Iterator[Outcome]:
    """One outcome for every line a process prints: JSON with ``cpu_s`` and ``peak_bytes`` of its own.

    Raises
    ------
    SystemExit
        It ended badly.
    """
    parts = [str(part) for part in command]
    with subprocess.Popen(parts, stdout=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD}) as process:
        assert process.stdout is not None
        for line in process.stdout:
            answer = json.loads(line)
            yield Outcome(answer, answer.pop("cpu_s"), answer.pop("peak_bytes"), "")
    if process.returncode:
        raise SystemExit(f"exit {process.returncode}: {' '.join(parts[:2])}")


def _answer(exit_code: int, printed: str, complaint: str) -> dict[str, Any]:
    if exit_code:
        last = complaint.strip().splitlines() or [""]
        return {"failed": f"exit {exit_code}: {last[-1][:300]}"}
    answer: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return answer
