"""Runs of a benchmark that trains for some CPU minutes: one process each, resumable, judged by the test images.

What a run of ``recovery`` or ``lrpet`` shares: the data, the loop over cells, the file of rows, and how a model is scored.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accuracy_rows import Cell, Row, merged, read, write
from processes import Outcome, run

from shrinkc.files import sha256
from shrinkc.report import facts

FOLDER = Path(__file__).parent


def written(work: Path) -> None:
    """Let ``fashion`` write the data, in a process of its own."""
    calls = f"fashion.write_test(Path('{work}/test.npz')); fashion.write_training(Path('{work}'))"
    subprocess.run([sys.executable, "-c", f"import fashion; from pathlib import Path; {calls}"], check=True, cwd=FOLDER)


def score(model: Path, work: Path) -> dict[str, Any]:
    """Accuracy on the test images, and MACs."""
    return run(sys.executable, FOLDER / "score.py", model, work / "test.npz").answer


def scored(cell: Cell, made: Outcome, output: Path, work: Path, dense_macs: int) -> Row:
    """Row of the model that a process made."""
    found = made.answer if "failed" in made.answer else score(output, work)
    if "failed" in found:
        return Row(cell, None, None, made.cpu_s, made.peak_bytes, found["failed"])
    left = round(found["macs"] / dense_macs, 5)
    return Row(cell, found["accuracy"], left, made.cpu_s, made.peak_bytes, steps=made.answer.get("steps"))


@dataclass(frozen=True)
class Runs:
    """Where everything is.

    Attributes
    ----------
    models : Path
        Folder of the trained models.
    output : Path
        Of the rows; written after each.
    is_resumed : bool
        Skip what it has already.
    """

    models: Path
    output: Path
    is_resumed: bool

    def updated(self, cells: Sequence[Cell], row: Callable[[Cell, Path, int], Row], about: dict[str, object]) -> list[Row]:
        """Run what there is to run; ``row`` is given a cell, the folder of the data and the MACs of the original."""
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            written(work)
            rows, originals = self._known(list(dict.fromkeys(cell.model for cell in cells)), work)
            done = {known.cell for known in rows} if self.is_resumed else set()
            for cell in cells:
                if cell in done:
                    continue
                made = row(cell, work, originals[cell.model]["macs"])
                rows = merged(rows, made)
                here = {"originals": originals, "machine": facts.machine(), "versions": facts.versions()}
                write(self.output, {**about, **here, "load_average": os.getloadavg()}, rows)
                print(json.dumps(made.to_json()), flush=True)
        return rows

    def _known(self, names: Sequence[str], work: Path) -> tuple[list[Row], dict[str, Any]]:
        """Rows so far, without those of a model that is another one now, and every original."""
        kept = read(self.output)
        rows, originals = kept["rows"], kept["originals"]
        for name in names:
            path = self.models / f"{name}.onnx"
            if originals.get(name, {}).get("sha256") != sha256(path):
                originals[name] = {"sha256": sha256(path), **score(path, work)}
                rows = [row for row in rows if row.cell.model != name]
        return rows, originals
