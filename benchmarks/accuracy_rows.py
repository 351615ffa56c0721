"""Rows of the accuracy benchmark: one per run, kept in one JSON file, and what several seeds of a method come to."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shrinkc.files import write_text


@dataclass(frozen=True)
class Cell:
    """What is run: a method on a model under a budget, with one seed.

    Attributes
    ----------
    removed : int
        Percent of the MACs to remove.
    """

    model: str
    removed: int
    tool: str
    method: str
    seed: int

    @property
    def label(self) -> str:
        """Tool and method, as they are printed and as ``--only`` sees them."""
        return f"{self.tool} {self.method}"


@dataclass(frozen=True)
class Row:
    """What came out.

    Attributes
    ----------
    accuracy : float or None
        Top-1 on the test images, in [0, 1].
    macs_left : float or None
        Share of the original's.
    cpu_s, peak_bytes
        Of the process that made the model; where runs share one, CPU seconds of this run with all that is shared, and the
        process's peak so far.
    failed : str
        Why there is no model; empty otherwise.
    steps : int or None
        Optimizer steps that fitted into the time, where something was trained.
    """

    cell: Cell
    accuracy: float | None
    macs_left: float | None
    cpu_s: float
    peak_bytes: int
    failed: str = ""
    steps: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, flat."""
        data = {name: value for name, value in asdict(self).items() if name != "steps" or value is not None}
        return {**data.pop("cell"), **data}


@dataclass(frozen=True)
class Summary:
    """All seeds of one method on one model under one budget; ``std`` is None for a single run."""

    model: str
    removed: int
    label: str
    runs: int
    mean: float | None
    std: float | None
    macs_left: float | None
    failed: str

    def text(self) -> str:
        """Accuracy in percent."""
        if self.mean is None:
            return "failed"
        spread = "" if self.std is None else f" ±{100 * self.std:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


def row_of(data: dict[str, Any]) -> Row:
    """A row from plain data."""
    names = Cell.__dataclass_fields__
    cell = Cell(**{name: data[name] for name in names})
    return Row(cell, **{name: value for name, value in data.items() if name not in names})


def read(path: Path) -> dict[str, Any]:
    """The file's facts, with ``rows`` as Row objects; no file is an empty benchmark."""
    if not path.exists():
        return {"originals": {}, "rows": []}
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {**data, "rows": [row_of(row) for row in data["rows"]]}


def write(path: Path, facts: dict[str, Any], rows: Iterable[Row]) -> None:
    """Write facts and rows, a row on a line; the order does not depend on the order of the runs."""
    ordered = sorted(rows, key=lambda row: (row.cell.model, row.cell.removed, row.cell.label, row.cell.seed))
    lines = ",\n".join(f"  {json.dumps(row.to_json())}" for row in ordered)
    head = json.dumps({name: value for name, value in facts.items() if name != "rows"}, indent=1)
    write_text(path, f'{head[:-2]},\n "rows": [\n{lines}\n ]\n}}\n')


def merged(rows: Iterable[Row], new: Row) -> list[Row]:
    """Rows with one added; it takes the place of an older one of its cell."""
    return [*(row for row in rows if row.cell != new.cell), new]


def summarise(rows: Iterable[Row]) -> list[Summary]:
    """One summary per model, budget and method, in the order of first appearance."""
    found: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.cell.model, row.cell.removed, row.cell.label), []).append(row)
    return [_summary(*key, group) for key, group in found.items()]


def _summary(model: str, removed: int, label: str, rows: list[Row]) -> Summary:
    """A method that fails with one seed has no mean: an average over the seeds that went well would flatter it."""
    failed = next((row.failed for row in rows if row.failed), "")
    values = [row.accuracy for row in rows if row.accuracy is not None]
    shares = [row.macs_left for row in rows if row.macs_left is not None]
    if failed or not values:
        return Summary(model, removed, label, len(rows), None, None, None, failed)
    std = statistics.stdev(values) if len(values) > 1 else None
    return Summary(model, removed, label, len(rows), statistics.mean(values), std, statistics.mean(shares), "")


def table(rows: Iterable[Row]) -> str:
    """Accuracy in percent, a line per method and a column per model and budget."""
    summaries = summarise(sorted(rows, key=lambda row: (row.cell.model, row.cell.removed)))
    columns = list(dict.fromkeys((summary.model, summary.removed) for summary in summaries))
    cells = {(summary.label, summary.model, summary.removed): summary.text() for summary in summaries}
    labels = sorted({summary.label for summary in summaries})
    wide = max((len(label) for label in labels), default=0)
    heads = [f"{model} -{removed} %" for model, removed in columns]
    lines = ["  ".join([" " * wide, *heads])]
    for label in labels:
        texts = [cells.get((label, *column), "").rjust(len(head)) for column, head in zip(columns, heads, strict=True)]
        lines.append("  ".join([label.ljust(wide), *texts]))
    reasons = sorted({f"{s.label}, {s.model} -{s.removed} %: {s.failed}" for s in summaries if s.failed})
    return "\n".join([*lines, *reasons])
