"""The report as a Markdown summary, for a pull request or a build log."""

from __future__ import annotations

from shrinkc.report.model import Report
from shrinkc.report.rows import FACTOR_COLUMNS, count, error, factor_cells, remarks, rows

MAX_REFUSALS = 10


def render(report: Report) -> str:
    """Summary of a report."""
    lines = [f"# shrinkc: {report.model}", "", "| | before | after | change |", "|---|---:|---:|---:|"]
    lines += [f"| {row.label} | {row.before} | {row.after} | {row.change} |" for row in rows(report)]
    lines += ["", *(f"- {remark}" for remark in remarks(report)), ""]
    lines += _groups(report) + _factors(report) + _refusals(report) + _provenance(report)
    return "\n".join(lines) + "\n"


def _groups(report: Report) -> list[str]:
    table = ["## Groups", "", "| group | channels before | after | removal |", "|---|---:|---:|---|"]
    for group in report.groups:
        kind = "equals zeroing" if group.is_exact else "channels are mixed by a normalisation"
        table.append(f"| `{group.name}` | {group.channels_before} | {group.channels_after} | {kind} |")
    return [*table, "", *_predictions(report)]


def _predictions(report: Report) -> list[str]:
    """Errors are shares of the energy of what reads the channels, as known before any repair is measured."""
    if report.predicted_error is None:
        return []
    table = ["## Predicted errors", "", "| group | error | of the last step, per percent saved |", "|---|---:|---:|"]
    for group in report.groups:
        table.append(f"| `{group.name}` | {error(group.predicted_error)} | {error(group.marginal_cost)} |")
    return [*table, f"| all | {error(report.predicted_error)} | |", ""]


def _factors(report: Report) -> list[str]:
    """Every layer that was factorised, or could not be, or gained nothing."""
    if not report.factors:
        return []
    table = ["## Factorised layers", "", f"| layer | {' | '.join(FACTOR_COLUMNS)} |", "|---|---|---:|---:|---:|---:|---:|---|"]
    table += [f"| `{row.layer}` | {' | '.join(factor_cells(row))} |" for row in report.factors]
    return [*table, ""]


def _refusals(report: Report) -> list[str]:
    if not report.refusals:
        return []
    table = ["## Not removable", "", "| reason | node | channels | MACs | parameters |", "|---|---|---:|---:|---:|"]
    for refusal in report.refusals[:MAX_REFUSALS]:
        node = refusal.blocker.node or "-"
        held = f"{refusal.channels} | {count(refusal.macs)} | {count(refusal.parameters)}"
        table.append(f"| {refusal.blocker.reason} | `{node}` | {held} |")
    if len(report.refusals) > MAX_REFUSALS:
        table.append(f"| … and {len(report.refusals) - MAX_REFUSALS} more reasons in the JSON report | | | | |")
    return [*table, ""]


def _provenance(report: Report) -> list[str]:
    packages = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return [
        "## Provenance",
        "",
        f"- model sha256 `{report.model_sha256}`",
        f"- output sha256 `{report.output_sha256}`",
        f"- recipe sha256 `{report.recipe_sha256}`",
        f"- {packages}",
        f"- {report.machine['processor']}, {report.machine['cpus']} CPUs, {report.machine['system']}",
    ]
