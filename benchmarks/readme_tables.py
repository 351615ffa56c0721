"""The README's tables of accuracy and of runtimes, in Markdown, from ``benchmarks/results``.

python benchmarks/readme_tables.py           # prints them
python benchmarks/readme_tables.py --write   # puts them into README.md, each between its marks
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from accuracy_grid import CUTS, DEFAULT
from accuracy_rows import Summary, read, summarise
from recovery import CUTS as RECOVERED_CUTS
from validation_table import markdown as validation_markdown

ROOT = Path(__file__).parents[1]
TITLES = {"resnet20": "ResNet-20", "vgg16-bn-half": "VGG-16-BN, half width", "mobilenetv2-like": "MobileNetV2-like"}


class Made(Protocol):
    """A table that is made of the results file of its name, and stands between marks of its name.

    Attributes
    ----------
    name : str
    """

    @property
    def name(self) -> str:
        """Of the results file and of the marks in the README."""

    def text(self) -> str:
        """The table in Markdown."""


@dataclass(frozen=True)
class Runtimes:
    """What ``validation.py`` found."""

    name: str = "validation"

    def text(self) -> str:
        """The table in Markdown."""
        return validation_markdown(json.loads(results(self.name).read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Table:
    """One table of accuracy.

    Attributes
    ----------
    name : str
        Of the results file and of the marks in the README.
    cuts : sequence of int
    columns : mapping of heading to beginnings of labels
        Several methods are one column, of which the best is shown.
    """

    name: str
    cuts: Sequence[int]
    columns: Mapping[str, tuple[str, ...]]

    def text(self) -> str:
        """The table in Markdown."""
        return markdown(self, read(results(self.name)))


def marks(name: str) -> tuple[str, str]:
    """What stands before and behind a table."""
    return f"<!-- {name}: made by benchmarks/readme_tables.py -->", f"<!-- end of {name} -->"


def results(name: str) -> Path:
    """File of the results."""
    return ROOT / "benchmarks" / "results" / f"{name}.json"


TABLES: tuple[Made, ...] = (
    Table(
        "accuracy",
        CUTS,
        {
            "shrinkc, default": (f"shrinkc {DEFAULT}",),
            "shrinkc, random channels": ("shrinkc random+rectified+uniform",),
            "shrinkc, L2 only": ("shrinkc l2+none+uniform",),
            "Torch-Pruning {torch-pruning}, L2": ("torch-pruning l2-",),
            "its Taylor, with labels": ("torch-pruning taylor-",),
            "onnxsim {onnxsim}": ("onnxsim ",),
        },
    ),
    Table(
        "recovery",
        RECOVERED_CUTS,
        {
            "no training": ("shrinkc none",),
            "label-free": ("shrinkc label-free",),
            "with labels": ("shrinkc labels",),
            "small net from scratch": ("shrinkc scratch",),
            "Torch-Pruning, with labels": ("torch-pruning ",),
        },
    ),
    Runtimes(),
)


def best(summaries: Sequence[Summary], beginnings: Sequence[str]) -> str:
    """The most accurate of the methods that a column stands for."""
    own = [summary for summary in summaries if summary.label.startswith(tuple(beginnings))]
    means = [summary for summary in own if summary.mean is not None]
    if not own:
        return "not run"
    return max(means, key=lambda summary: summary.mean or 0.0).text() if means else "failed"


def markdown(table: Table, data: Mapping[str, Any]) -> str:
    """A line per model and budget, a column per family of methods."""
    heads = [heading.format_map(data["versions"]) for heading in table.columns]
    lines = [f"| model (original) | MACs removed | {' | '.join(heads)} |", f"|---|{'---:|' * (1 + len(heads))}"]
    found = summarise(data["rows"])
    for model, title in TITLES.items():
        for cut in table.cuts:
            own = [summary for summary in found if (summary.model, summary.removed) == (model, cut)]
            name = f"{title} ({100 * data['originals'][model]['accuracy']:.2f})" if cut == table.cuts[0] else ""
            lines.append(f"| {name} | {cut} % | {' | '.join(best(own, labels) for labels in table.columns.values())} |")
    return "\n".join(lines)


def with_table(text: str, table: Made) -> str:
    """A document with the table between its marks."""
    begin, end = marks(table.name)
    between = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not between.search(text):
        raise SystemExit(f"no {begin} in the document")
    made = table.text()
    return between.sub(lambda _: f"{begin}\n{made}\n{end}", text)


def main() -> None:
    """Print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into README.md")
    readme = ROOT / "README.md"
    if not parser.parse_args().write:
        print(*(table.text() for table in TABLES), sep="\n\n")
        return
    text = readme.read_text(encoding="utf-8")
    for table in TABLES:
        text = with_table(text, table)
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
