"""The result of a validation for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shrinkc.comparing import Difference, worst
from shrinkc.latency.probe import Comparison
from shrinkc.report.rows import seconds, size
from shrinkc.report.validation import FAILED, EngineResult, Validation

MAX_WARNINGS = 3

SHORTFALLS = {"not run": "FAILED to convert", "converted": "FAILED to load", "loaded": "FAILED to compute"}
"""What a level that was reached says of one that failed after it."""


def show(found: Validation, console: Console) -> None:
    """Print one row a runtime, then why those that came short did."""
    table = Table(
        box=None,
        pad_edge=False,
        title=escape(f"{found.compressed} against {found.original}, {found.inputs}"),
        title_justify="left",
    )
    for name in ("runtime", "version", "reached", "computed in", "file"):
        table.add_column(name, no_wrap=True)
    for name in ("own error", "cosine", "SQNR", "same class", "against original"):
        table.add_column(name, justify="right", no_wrap=True)
    is_timed = any(result.latency is not None for result in found.results)
    if is_timed:
        table.add_column("original, compressed, speed", justify="right", no_wrap=True)
    for result in found.results:
        table.add_row(*map(escape, (*_cells(result), _times(result.latency)) if is_timed else _cells(result)))
    console.print(table)
    console.print(
        escape(f"own error: largest difference from {found.reference} on the same model, over the largest value"),
        soft_wrap=True,
    )
    for result in found.results:
        for line in _remarks(result):
            console.print(escape(f"{result.runtime}: {line}"), soft_wrap=True)


def _cells(result: EngineResult) -> list[str]:
    reached = SHORTFALLS[result.level] if result.status == FAILED else result.level
    file = size(result.size_bytes) if result.size_bytes else ""
    return [result.runtime, result.version, reached, result.precision, file, *_numbers(result.own), _relative(result.total)]


def _numbers(differences: Sequence[Difference]) -> list[str]:
    if not differences:
        return [""] * 4
    off = worst(differences)
    sqnr = "exact" if off.sqnr_db is None else f"{off.sqnr_db:.0f} dB"
    agreement = [found.argmax_agreement for found in differences if found.argmax_agreement is not None]
    return [f"{off.relative:.1e}", f"{off.cosine:.6f}", sqnr, f"{min(agreement):.1%}" if agreement else ""]


def _relative(differences: Sequence[Difference]) -> str:
    return f"{worst(differences).relative:.1e}" if differences else ""


def _times(found: Comparison | None) -> str:
    """By the CPU time of the least disturbed run where others had the processor."""
    if found is None:
        return ""
    marked = " (contended)" if found.is_contended else ""
    return (
        f"{seconds(found.fair_seconds * found.fair_speedup)}, {seconds(found.fair_seconds)}, {found.fair_speedup:.2f}x{marked}"
    )


def _remarks(result: EngineResult) -> list[str]:
    lines = [f"{result.status}: {result.reason}"] if result.reason else []
    lines += [result.latency_note] if result.latency_note else []
    lines += [result.original] if result.original else []
    if result.divergence is not None:
        found = result.divergence
        where = f"first at {found.op_type} {found.node} ({found.relative:.1e}), after {found.after or 'the inputs'}"
        lines.append(where if found.node else f"no first node: {found.note}")
    if result.support is not None:
        lines.append(_verdict(result))
    return lines + [f"converter: {warning}" for warning in result.warnings[:MAX_WARNINGS]]


def _verdict(result: EngineResult) -> str:
    support = result.support
    if support is None:
        return ""
    refused = support.refused()
    if not support.verdicts:
        return f"{support.checker}: {support.note}"
    if not refused:
        return f"{support.checker}: all {len(support.verdicts)} nodes supported"
    first = "; ".join(f"{verdict.op_type} {verdict.node}: {verdict.reason}" for verdict in refused[:MAX_WARNINGS])
    return f"{support.checker}: {len(refused)} of {len(support.verdicts)} nodes refused: {first}"
