"""A check as a Markdown summary, for a pull request or the page of a build."""

from __future__ import annotations

from shrinkc.report.check import PASSED, SKIPPED, Check, remarks


def render(check: Check) -> str:
    """The summary."""
    lines = [f"## shrinkc check: {check.outcome}", "", f"`{check.compressed}` against `{check.original}`", ""]
    lines += ["| limit | allowed | found | |", "|---|---|---|---|"]
    for verdict in check.verdicts:
        status = verdict.status if verdict.status in (PASSED, SKIPPED) else f"**{verdict.status}**"
        lines.append(f"| {' | '.join(map(_cell, (verdict.name, verdict.allowed, verdict.found)))} | {status} |")
    details = [f"- {verdict.name}: {_line(verdict.detail)}" for verdict in check.verdicts if verdict.detail]
    lines += ["", *details, *(f"- {_line(remark)}" for remark in remarks(check))]
    lines += [f"- sha256 of the result `{check.compressed_sha256}`, of the original `{check.original_sha256}`"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _line(text: str) -> str:
    """Text that stays on its line and is not read as HTML."""
    return " ".join(text.split()).replace("<", "&lt;")
