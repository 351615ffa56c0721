"""The README's table of runtimes: how far each came with every model, and how far it is from onnxruntime on the same file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

BROKE_AT = {"not run": "conversion", "converted": "loading", "loaded": "its numbers"}
"""What failed after the level that was reached."""


def markdown(data: Mapping[str, Any]) -> str:
    """A line a runtime, a column a model, and why a runtime came no further."""
    models = list(data["models"].values())
    heads = [f"{model['title']}, {100 * model['macs_left']:.0f} %" for model in models]
    rows = [{row["runtime"]: row for row in model["results"]} for model in models]
    lines = [f"| runtime | {' | '.join(heads)} | |", f"|---|{'---:|' * len(heads)}---|"]
    for runtime in dict.fromkeys(name for found in rows for name in found):
        own = [found[runtime] for found in rows if runtime in found]
        cells = [cell(found.get(runtime)) for found in rows]
        lines.append(f"| {named(own)} | {' | '.join(cells)} | {remark(own)} |")
    return "\n".join(lines)


def named(rows: Sequence[Row]) -> str:
    """A runtime with its version and, if that is not this machine, where it ran."""
    place = rows[0]["place"]
    where = f", {place}" if place not in ("", "this machine") else ""
    return f"{rows[0]['runtime'].removeprefix('arm64:')} {rows[0]['version']}".strip() + where


def cell(row: Row | None) -> str:
    """Its error where its numbers are right, else how far it came and what its checker says of the nodes."""
    if row is None:
        return "not tried"
    if row["status"] == "ok":
        return f"{row['own']['relative']:.0e}" if row["own"]["relative"] else "0"
    if row["status"] == "failed":
        return f"**fails: {BROKE_AT[row['level']]}**"
    judged = row.get("judged_nodes", 0)
    return f"not run; parser takes {judged - row['refused_nodes']}/{judged} nodes" if judged else "not run"


def remark(rows: Sequence[Row]) -> str:
    """Why it came no further, once."""
    reasons = dict.fromkeys(row["reason"].split(";")[0].replace("|", "/") for row in rows if row["status"] != "ok")
    return "; ".join(filter(None, reasons))
