"""What is covered: exports every network of the tests, compresses it, and writes the table of the README.

    python tools/coverage_table.py               # measures, writes docs/coverage.json and the table (minutes)
    python tools/coverage_table.py --table-only  # writes the table again from docs/coverage.json

Needs the test environment (``make test`` makes it).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "coverage.json"
BEGIN, END = "<!-- coverage: made by tools/coverage_table.py -->", "<!-- end of coverage -->"
EVERYTHING = "conv,mlp,heads,head-dim,stream"
RATIO = 0.5


def left(path: Path, folder: Path, prune: str | None = None) -> float:
    """Share of the MACs left at ratio 0.5, after the proof passed."""
    import shrinkc

    report = shrinkc.compress(
        path, output=folder / "out.onnx", prune_ratio=RATIO, round_to=1, measure_latency=False, prune=prune
    )
    if report.proof is None:
        raise SystemExit(f"{path.name} was not proved")
    return report.after.macs / report.before.macs


def networks() -> dict[str, dict[str, Any]]:
    """Shares left of every network by exporter, and of everything switched on where a stream or heads are involved."""
    sys.path.insert(0, str(ROOT / "tests"))
    from models import torch_convolutional, torch_dense, torch_transformers
    from models.torch_networks import NETWORKS, export

    families = (torch_convolutional, torch_dense, torch_transformers)  # importing them fills the registry
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        for name, network in NETWORKS.items() if families else ():
            row: dict[str, Any] = {}
            for exporter in ("dynamo", "legacy"):
                path = export(name, exporter, folder / f"{name}.{exporter}.onnx")
                row[exporter] = round(left(path, folder), 3)
                if exporter == "dynamo" and network.left_of_everything is not None:
                    row["everything"] = round(left(path, folder, EVERYTHING), 3)
            found[name] = row
            print(name, row, flush=True)
    return found


def operators() -> dict[str, list[str]]:
    """Operators of ai.onnx: channels follow them, they refuse with a reason of their own, or nothing is known."""
    from shrinkc import registry
    from shrinkc.analysis.oprules.quantization import refuse
    from shrinkc.analysis.oprules.refusals import REASONS

    rules = registry.operator_rules()
    names = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""})
    refused = [name for name in names if name in REASONS or rules.get(("", name)) is refuse]
    followed = [name for name in names if ("", name) in rules and name not in refused]
    foreign = sorted(f"{domain}::{name}" for (domain, name), rule in rules.items() if domain and rule is not refuse)
    rest = [name for name in names if name not in followed and name not in refused]
    return {"followed": followed, "refused": refused, "no rule": rest, "other domains": foreign}


def share(value: object) -> str:
    """One cell of the table."""
    return f"{value:.0%}" if isinstance(value, float) else ""


def table(results: dict[str, Any]) -> str:
    """The part of the README between the marks."""
    lines = [
        BEGIN,
        f"MACs left at `--prune-ratio {RATIO}` of small networks of every family, by both exporters of torch; all proved.",
        "",
        "| network | dynamo | legacy | with heads, dims and stream |",
        "|---|---:|---:|---:|",
    ]
    for name, row in results["networks"].items():
        cells = " | ".join(share(row.get(column)) for column in ("dynamo", "legacy", "everything"))
        lines.append(f"| {name.replace('_', ' ')} | {cells} |")
    kinds = results["operators"]
    lines += [
        "",
        f"Operators of ai.onnx: {len(kinds['followed'])} have a rule,",
        f"{len(kinds['refused'])} refuse with a reason of their own,",
        f"{len(kinds['no rule'])} have none and freeze what meets them: {', '.join(kinds['no rule'])}.",
        f"Of other domains: {', '.join(kinds['other domains'])}.",
        END,
    ]
    return "\n".join(lines)


def written_into(readme: str, part: str) -> str:
    """README with the part between the marks replaced."""
    before, rest = readme.split(BEGIN)
    return before + part + rest.split(END)[1]


def main() -> None:
    """Measure, write the results and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table-only", action="store_true")
    args = parser.parse_args()
    if args.table_only:
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
        results["operators"] = operators()
    else:
        results = {"ratio": RATIO, "networks": networks(), "operators": operators()}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    readme = ROOT / "README.md"
    readme.write_text(written_into(readme.read_text(encoding="utf-8"), table(results)), encoding="utf-8")


if __name__ == "__main__":
    main()
