"""Accuracy against MACs, a panel per model, from ``benchmarks/results/accuracy.json``: writes ``docs/accuracy.svg``.

    benchmarks/peers/environments/plot/bin/python benchmarks/plot_accuracy.py

Needs matplotlib, which shrinkc does not: ``benchmarks/peers/environments.sh`` makes an environment with it.  Every method is
drawn; the default, random scores and the peers are picked out, the rest is one pale family per compensation.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).parents[1]
TITLES = {"resnet20": "ResNet-20", "vgg16-bn-half": "VGG-16-BN, half width", "mobilenetv2-like": "MobileNetV2-like"}

# Okabe and Ito's palette: told apart by people who see colours differently, and in print.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
PLUM, OLIVE, GREY = "#6B2C55", "#A89F20", "#777777"


@dataclass(frozen=True)
class Look:
    """How a family of methods is drawn; ``order`` is that of the legend, and later ones lie on top."""

    order: int
    label: str
    style: dict[str, Any]


def look(tool: str, method: str, default: str) -> Look:
    """Family a method belongs to."""
    if tool == "torch-pruning":
        is_taylor = method.startswith("taylor")
        name = "Torch-Pruning, Taylor (with labels)" if is_taylor else "Torch-Pruning, L2"
        return Look(5 + is_taylor, name, _peer(*((ORANGE, "D") if is_taylor else (VERMILION, "s"))))
    if tool == "onnxsim":
        has_recovery = "+" in method
        name = "onnxsim, with recovery" if has_recovery else "onnxsim, no recovery"
        return Look(7 + has_recovery, name, _peer(*((PURPLE, "^") if has_recovery else (PLUM, "v"))))
    return _ours(method, default)


def _peer(colour: str, marker: str) -> dict[str, Any]:
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    return {"color": colour, "marker": marker, "linestyle": "--", "linewidth": 1.3, "markersize": 6, "zorder": 4, **edge}


def _ours(method: str, default: str) -> Look:
    criterion, compensation, allocator = method.split("+")
    if method == default:
        label = f"shrinkc, default ({criterion}, {compensation}, {allocator})"
        return Look(0, label, {"color": BLUE, "marker": "o", "linewidth": 2.6, "markersize": 6, "zorder": 6})
    if criterion == "random":
        dotted = {"marker": "x", "linestyle": ":", "linewidth": 1.2, "zorder": 3}
        return Look(4, "shrinkc, random scores", {"color": GREY, **dotted})
    families = {"rectified": (1, GREEN, "rectified refit"), "none": (3, SKY, "no compensation")}
    order, colour, name = families.get(compensation, (2, OLIVE, "other compensations"))
    pale = {"marker": ".", "linewidth": 0.8, "markersize": 4, "alpha": 0.55, "zorder": 2}
    return Look(order, f"shrinkc, {name}", {"color": colour, **pale})


Points = list[tuple[float, float, float]]
"""Share of MACs left, mean accuracy and its standard deviation over seeds."""


def lines_of(rows: list[dict[str, Any]]) -> dict[tuple[str, str], Points]:
    """Points of each tool and method of one model, from the most MACs to the fewest; failed runs are in the table only."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["tool"], row["method"], row["removed"]), []).append(row)
    lines: dict[tuple[str, str], Points] = {}
    for (tool, method, _), group in sorted(groups.items()):
        if not any(row["failed"] for row in group):
            lines.setdefault((tool, method), []).append(_point(group))
    return lines


def _point(group: list[dict[str, Any]]) -> tuple[float, float, float]:
    values = [100 * row["accuracy"] for row in group]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return 100 * statistics.mean(row["macs_left"] for row in group), statistics.mean(values), spread


def draw(panel: Axes, rows: list[dict[str, Any]], original: float, default: str) -> dict[str, tuple[int, Any]]:
    """Draw one model; returns a handle per family."""
    handles: dict[str, tuple[int, Any]] = {}
    for (tool, method), points in lines_of(rows).items():
        family = look(tool, method, default)
        shares, means, spreads = zip(*points, strict=True)
        handle = panel.errorbar(shares, means, spreads, elinewidth=0.6, **family.style)
        handles.setdefault(family.label, (family.order, handle))
    panel.axhline(100 * original, color=BLACK, linewidth=0.8, zorder=1)
    panel.annotate("original", (0.99, 100 * original), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    return handles


def figure(data: dict[str, Any]) -> Any:
    """The whole picture."""
    models = [name for name in TITLES if any(row["model"] == name for row in data["rows"])]
    drawing, panels = plt.subplots(
        2, len(models), figsize=(4.4 * len(models), 8), squeeze=False, sharex="col", height_ratios=(3, 2)
    )
    handles: dict[str, tuple[int, Any]] = {}
    for column, name in zip(panels.T, models, strict=True):
        rows, original = [row for row in data["rows"] if row["model"] == name], data["originals"][name]["accuracy"]
        for panel, limits in zip(column, ((0, 100), (100 * original - 6, 100 * original + 0.7)), strict=True):
            handles = draw(panel, rows, original, data["default"]) | handles
            panel.set(ylim=limits)
            panel.grid(color="#e5e5e5", linewidth=0.6)
        column[0].set_title(TITLES[name])
        column[1].set_xlabel("MACs left (%)")
        column[1].invert_xaxis()
    panels[0][0].set_ylabel("accuracy on Fashion-MNIST (%), no training")
    panels[1][0].set_ylabel("the same, its upper end")
    ordered = sorted(handles.items(), key=lambda item: item[1][0])
    labels, shown = [label for label, _ in ordered], [handle for _, (_, handle) in ordered]
    drawing.legend(shown, labels, loc="lower center", ncols=3, frameon=False, fontsize=9)
    drawing.tight_layout(rect=(0, 0.1, 1, 1))
    return drawing


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "accuracy.json")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "accuracy.svg")
    args = parser.parse_args()
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "shrinkc", "svg.fonttype": "none", "font.family": "sans-serif"})
    data = json.loads(args.results.read_text(encoding="utf-8"))
    figure(data).savefig(args.output, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
