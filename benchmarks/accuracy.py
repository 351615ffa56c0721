"""Accuracy after pruning, without any training, of shrinkc and its peers on Fashion-MNIST.

    tools/train_benchmark_models.py NAME --out benchmarks/models    # once per model
    benchmarks/peers/environments.sh                                # once: the peers' own environments
    python benchmarks/accuracy.py --resume                          # hours; can be interrupted and resumed
    python benchmarks/accuracy.py --only 'shrinkc l2+*' --models resnet20 --cuts 50
    python benchmarks/accuracy.py --table                           # prints what benchmarks/results/accuracy.json has

Every run is a model, a method, a share of the MACs to remove and a seed, on one thread.  A peer's run is a process of its own;
those of shrinkc on one model with one seed share one, which reads the model and gathers evidence once: the files are those that
``shrinkc.compress`` writes, byte for byte, and what is shared counts in full for each.  The seed draws the 512 calibration
images, without labels, from training images no model has seen.  Accuracy is onnxruntime's on all 10,000 test images, and MACs
are counted on the written file by shrinkc's cost model, whoever wrote it.  Torch-Pruning's Taylor importance cannot do without
a loss and is given the labels of the calibration images.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from accuracy_grid import CUTS, DEFAULT, MODELS, PEERS, SAMPLES, SEEDS, cells
from accuracy_rows import Cell, Row, merged, read, table, write
from processes import Outcome, announced, run

from shrinkc.files import sha256
from shrinkc.report import facts

FOLDER = Path(__file__).parent
SCRIPTS = {
    "shrinkc": FOLDER / "peers" / "shrinkc_sweep.py",
    "torch-pruning": FOLDER / "peers" / "torch_pruning_peer.py",
    "onnxsim": FOLDER / "peers" / "onnxsim_peer.py",
}


@dataclass(frozen=True)
class Bench:
    """Where everything is."""

    models: Path
    pythons: dict[str, Path]
    work: Path

    def model(self, name: str) -> Path:
        """File of a trained model."""
        path = self.models / f"{name}.onnx"
        if not path.exists():
            raise SystemExit(f"{path} is missing: python tools/train_benchmark_models.py {name} --out {self.models}")
        return path

    def calibration(self, seed: int) -> list[object]:
        """Options that name a seed's images and labels; written when first asked for."""
        images, labels = self.work / f"calibration{seed}.npz", self.work / f"labels{seed}.npz"
        if not labels.exists():
            self.written("write_calibration", images, labels, SAMPLES, seed)
        return ["--calibration", images, "--labels", labels]

    def written(self, function: str, *arguments: object) -> None:
        """Let a function of ``fashion`` write a file, in a process of its own."""
        code = f"import fashion; from pathlib import Path, PosixPath; fashion.{function}{arguments!r}"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=FOLDER)

    def score(self, model: Path) -> dict[str, Any]:
        """Accuracy and MACs of a file."""
        test = self.work / "test.npz"
        if not test.exists():
            self.written("write_test", test)
        return run(sys.executable, FOLDER / "score.py", model, test).answer

    def rows(self, cells: Sequence[Cell], dense_macs: int) -> Iterator[Row]:
        """Prune and score: cells of one tool, model and seed."""
        if cells[0].tool == "shrinkc":
            yield from self._swept(cells, dense_macs)
            return
        for cell in cells:
            output = self.work / "pruned.onnx"
            output.unlink(missing_ok=True)
            options = ["--method", cell.method, "--remove", cell.removed / 100, "--seed", cell.seed, "--output", output]
            command = [self.pythons[cell.tool], SCRIPTS[cell.tool], self.model(cell.model), *options]
            made = run(*command, *self.calibration(cell.seed))
            yield self._row(cell, made, output, dense_macs)

    def _swept(self, cells: Sequence[Cell], dense_macs: int) -> Iterator[Row]:
        """Runs of shrinkc on one model with one seed."""
        options = ["--seed", cells[0].seed, "--folder", self.work, *self.calibration(cells[0].seed)[:2]]
        runs = [f"{cell.removed}:{cell.method}" for cell in cells]
        command = [sys.executable, SCRIPTS["shrinkc"], self.model(cells[0].model), *options, *runs]
        for number, (cell, made) in enumerate(zip(cells, announced(*command), strict=True)):
            if "failed" in made.answer:
                raise SystemExit(f"{cell.label} on {cell.model}: {made.answer['failed']}")
            output = self.work / f"{number}.onnx"
            yield self._row(cell, made, output, dense_macs)
            output.unlink()

    def _row(self, cell: Cell, made: Outcome, output: Path, dense_macs: int) -> Row:
        found = made.answer if "failed" in made.answer else self.score(output)
        if "failed" in found:
            return Row(cell, None, None, made.cpu_s, made.peak_bytes, found["failed"])
        if found["macs"] != made.answer["macs"]:
            raise SystemExit(f"{cell.label} says it left {made.answer['macs']} MACs, its file has {found['macs']}")
        return Row(cell, found["accuracy"], round(found["macs"] / dense_macs, 5), made.cpu_s, made.peak_bytes)


def original(bench: Bench, name: str, known: dict[str, Any]) -> dict[str, Any]:
    """Hash, accuracy and MACs of a trained model, measured when its file is a new one."""
    digest = sha256(bench.model(name))
    if known.get("sha256") == digest:
        return known
    return {"sha256": digest, **bench.score(bench.model(name))}


def version_of(tool: str, python: Path) -> str:
    """Version of a peer in its environment."""
    if not python.exists():
        raise SystemExit(f"{tool} has no environment: {python} is missing; run benchmarks/peers/environments.sh")
    found = run(python, "-c", f"import json, importlib.metadata as m; print(json.dumps({{'version': m.version({tool!r})}}))")
    return str(found.answer["version"])


def updated(bench: Bench, path: Path, todo: Sequence[Cell], resume: bool) -> None:
    """Run what there is to run and write the file after every row."""
    kept = read(path)
    originals, rows = kept["originals"], kept["rows"]
    for name in dict.fromkeys(cell.model for cell in todo):
        before, originals[name] = originals.get(name), original(bench, name, originals.get(name, {}))
        if before != originals[name]:  # rows of another model of that name say nothing about this one
            rows = [row for row in rows if row.cell.model != name]
    done = {row.cell for row in rows} if resume else set()
    todo = [cell for cell in todo if cell not in done]
    tools = {cell.tool for cell in todo} & PEERS.keys()
    versions = kept.get("versions", {}) | facts.versions() | {tool: version_of(tool, bench.pythons[tool]) for tool in tools}
    for (_, name, _), together in groupby(todo, lambda cell: (cell.tool, cell.model, cell.seed)):
        for row in bench.rows(list(together), originals[name]["macs"]):
            rows = merged(rows, row)
            write(path, described(originals, versions), rows)
            cell = row.cell
            print(f"{cell.model} -{cell.removed} % {cell.label} seed {cell.seed}: {row.failed or row.accuracy}", flush=True)


def described(originals: dict[str, Any], versions: dict[str, str]) -> dict[str, Any]:
    """Everything but the rows."""
    return {
        "default": DEFAULT,
        "samples": SAMPLES,
        "originals": originals,
        "machine": facts.machine(),
        "versions": versions,
        "load_average": os.getloadavg(),
    }


def main() -> None:
    """Run, write down, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="of 'TOOL METHOD', with * and ?")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--cuts", nargs="+", type=int, default=CUTS, help="percent of the MACs to remove")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, choices=SEEDS)
    parser.add_argument("--resume", action="store_true", help="skip what the results have already")
    parser.add_argument("--table", action="store_true", help="run nothing, print the results")
    parser.add_argument("--folder", type=Path, default=FOLDER / "models", help="of the trained models")
    parser.add_argument("--environments", type=Path, default=FOLDER / "peers" / "environments")
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "accuracy.json")
    args = parser.parse_args()
    pythons = {tool: args.environments / tool / "bin" / "python" for tool in PEERS}
    if not args.table:
        with tempfile.TemporaryDirectory() as work:
            bench = Bench(args.folder, {"shrinkc": Path(sys.executable), **pythons}, Path(work))
            updated(bench, args.output, list(cells(args.models, args.cuts, args.only, args.seeds)), args.resume)
    print(table(read(args.output)["rows"]))


if __name__ == "__main__":
    main()
