"""What comes back from a board: read, held against what was sent there, and put into the report of the run.

Nothing a board says is taken for granted: the file it ran must be the one that was emitted, and so must the reference it was
compared with; numbers that are off keep their times out of the report.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from shrinkc import target as targets
from shrinkc.emitting import SCHEMA as DEPLOYMENT_SCHEMA
from shrinkc.engines import LEVELS
from shrinkc.errors import RecipeError, VerificationError
from shrinkc.files import sha256, write_text
from shrinkc.report.json import strict
from shrinkc.report.rows import seconds
from shrinkc.report.validation import FAILED, OK
from shrinkc.tolerances import INT8, TOLERANCES

SCHEMA = "shrinkc.board/1"

KNOWN_MAJORS = (10, 11)
"""Versions of TensorRT that the script and the recipes are written for."""

UNJUDGED = "quantised: how far off is too far, a metric of the task has to say"

LEAST_RUNS, MOST_DRIFT = 10, 0.15

HEADING = "## On the board"


@dataclass(frozen=True)
class BoardResult:
    """One ONNX file on one board.

    Attributes
    ----------
    file, precision, target, runtime : str
    version : str
        Of TensorRT, there.
    board : str
        What it calls itself.
    level : str
        ``loaded`` (its numbers are wrong), ``validated`` (they are right) or ``timed``.
    status, reason : str
        ``ok`` or ``failed``, and why it came no further.
    relative_error : float
        Largest of any output, over the largest value of the reference.
    tolerance : float or None
        None for quantised files, which are for a metric of the task to judge.
    median_s, p90_s, least_s : float or None
        Of a run; None where it was not timed, or must not count.
    build_s : float
    engine_bytes : int
    power_mode : str
    notes : tuple of str
    """

    file: str
    precision: str
    target: str
    runtime: str
    version: str
    board: str
    level: str
    status: str
    reason: str
    relative_error: float
    tolerance: float | None
    median_s: float | None
    p90_s: float | None
    least_s: float | None
    build_s: float
    engine_bytes: int
    power_mode: str
    notes: tuple[str, ...] = ()

    def sentence(self) -> str:
        """For people."""
        where = f"{self.runtime} {self.version} on {self.board}"
        times = "" if self.median_s is None else f", median {seconds(self.median_s)}, p90 {seconds(self.p90_s or 0.0)}"
        reason = f": {self.reason}" if self.reason else ""
        said = f"{self.level} on the board{times}" if self.status == OK else f"FAILED after {self.level}"
        return f"{self.file} ({self.precision}), {where}: {said}, off by {self.relative_error:.1e}{reason}"


def read(results: Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str] | None = None) -> list[BoardResult]:
    """Results of a board, held against the folder that was sent there.

    Parameters
    ----------
    results : sequence of path
        JSON files that the script on the board wrote.
    folder : path, optional
        The folder beside the compressed model; by default that of the first result.

    Raises
    ------
    RecipeError
        A file cannot be read, or is no result or folder of this kind.
    VerificationError
        The board ran another file, or compared with another reference.
    """
    place = Path(folder) if folder is not None else Path(results[0]).parent
    deployment = _json(place / "deployment.json", DEPLOYMENT_SCHEMA)
    return [_checked(Path(path), _json(Path(path), SCHEMA), deployment, place) for path in results]


def _json(path: Path, schema: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError("a file of a board cannot be read", where=str(path), because=str(error)) from error
    if not isinstance(data, dict) or data.get("schema") != schema:
        raise RecipeError("a file of another kind", where=str(path), because=f"its schema is not {schema}")
    return data


def _checked(path: Path, data: Mapping[str, Any], deployment: Mapping[str, Any], folder: Path) -> BoardResult:
    try:
        _refuse_others(path, data, deployment, folder)
        variant = next(one for one in deployment["variants"] if one["file"] == data["model"])
        return _judged(_told(data, variant, targets.load(deployment["target"])), data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        because = f"{type(error).__name__}: {error}"
        raise RecipeError("a damaged result of a board", where=str(path), because=because) from error


def _refuse_others(path: Path, data: Mapping[str, Any], deployment: Mapping[str, Any], folder: Path) -> None:
    sent = {one["file"]: one["sha256"] for one in deployment["variants"]} | {"reference.npz": deployment["reference_sha256"]}
    ran = {data["model"]: data["model_sha256"], "reference.npz": data["reference_sha256"]}
    for name, digest in ran.items():
        here = folder / name
        if sent.get(name) != digest or (here.is_file() and sha256(here) != digest):
            raise VerificationError(
                "the board had another file than was sent there",
                where=f"{path}: {name}",
                because=f"its sha256 is {str(digest)[:16]}…, {str(sent.get(name, 'none of that name'))[:16]}… was written here",
                hint="copy the folder to the board again, or name its own: --folder",
            )


def _told(data: Mapping[str, Any], variant: Mapping[str, Any], target: targets.Target) -> BoardResult:
    """What the board says, not judged yet."""
    errors = [float(output["relative"]) for output in data["outputs"].values()]
    if not errors:
        raise ValueError("no output was compared")
    major = int(str(data["tensorrt"]).split(".")[0])
    unknown = f"TensorRT {major} is not one that the script was written for ({KNOWN_MAJORS[0]} and {KNOWN_MAJORS[1]})"
    board = data["board"]
    return BoardResult(
        str(data["model"]),
        str(variant["precision"]),
        target.name,
        target.runtime,
        str(data["tensorrt"]),
        str(board.get("model", board.get("machine", "unknown board"))),
        "loaded",
        FAILED,
        "",
        max(errors, key=lambda error: math.inf if math.isnan(error) else error),
        None if variant["precision"] == INT8 else TOLERANCES.get(str(variant["precision"])),
        None,
        None,
        None,
        float(data["build_s"]),
        int(data["engine_bytes"]),
        str(board.get("power_mode", "")),
        () if major in KNOWN_MAJORS else (unknown,),
    )


def _judged(told: BoardResult, data: Mapping[str, Any]) -> BoardResult:
    """With the level it reached, and times if its numbers are right."""
    is_finite = math.isfinite(told.relative_error)
    if not is_finite or (told.tolerance is not None and told.relative_error > told.tolerance):
        allowed = "" if told.tolerance is None else f", {told.tolerance:.0e} allowed"
        return replace(told, reason=f"its outputs are not those of the reference{allowed}; times do not count")
    right = replace(told, level="validated", status=OK, reason=UNJUDGED if told.tolerance is None else "")
    found = data["latency_s"]
    times = [float(found[name]) for name in ("median", "p90", "least")]
    if int(found["runs"]) < LEAST_RUNS or not all(math.isfinite(time) and time > 0 for time in times):
        return replace(right, notes=(*right.notes, f"not timed: {found['runs']} runs"))
    median, p90, least = times
    drift = float(found["drift"])
    notes = (f"the second half of the runs took {drift:+.0%}: it may throttle",) if abs(drift) > MOST_DRIFT else ()
    return replace(right, level="timed", median_s=median, p90_s=p90, least_s=least, notes=(*right.notes, *notes))


def merge(results: Sequence[BoardResult], folder: Path) -> Path | None:
    """Put results into the report beside the compressed model, in JSON and Markdown; returns it, None where there is none.

    A result of the same file on the same board takes the place of an older one.

    Raises
    ------
    RecipeError
        The report is no report.
    VerificationError
        It is of another model than the folder.
    """
    path = report_of(folder, results[0].target)
    if not path.is_file():
        return None
    report, deployment = _json(path, "shrinkc.report/1"), _json(folder / "deployment.json", DEPLOYMENT_SCHEMA)
    if report.get("output_sha256") != deployment.get("compressed_sha256"):
        raise VerificationError("the report is of another model than the folder", where=str(path))
    new = {(one.file, one.board): asdict(one) for one in results}
    kept = [one for one in report.get("board", []) if (one["file"], one["board"]) not in new]
    report["board"] = [*kept, *new.values()]
    report["runtimes"] = list(_levels(report))
    write_text(path, strict(report))
    _merge_summary(path.with_name(path.name.removesuffix(".json") + ".md"), report["board"])
    return path


def report_of(folder: Path, target: str) -> Path:
    """The report beside a folder of :func:`shrinkc.emitting.folder_of`."""
    place = folder.resolve()
    return place.with_name(f"{place.name.removesuffix(f'.{target}')}.report.json")


def _levels(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of runtimes; the best result of a board stands for its runtime."""
    told = [BoardResult(**{**one, "notes": tuple(one["notes"])}) for one in report["board"]]
    best: dict[str, BoardResult] = {}
    for one in sorted(told, key=lambda one: (one.status == OK, LEVELS.index(one.level))):
        best[one.runtime] = one
    yield from (row for row in report["runtimes"] if row["runtime"] not in best)
    for runtime, one in best.items():
        yield {"runtime": runtime, "level": one.level, "detail": one.sentence()}


def _merge_summary(path: Path, board: Sequence[Mapping[str, Any]]) -> None:
    """The section about boards, at the end, in the place of an older one."""
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8").split(f"\n{HEADING}\n")[0].rstrip("\n")
    told = [BoardResult(**{**one, "notes": tuple(one["notes"])}) for one in board]
    lines = [f"- {line}" for one in told for line in (one.sentence(), *one.notes)]
    write_text(path, "\n".join([text, "", HEADING, "", *lines]) + "\n")
