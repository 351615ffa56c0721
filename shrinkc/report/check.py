"""What a check found: the schema behind its JSON, its table, its JUnit file and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shrinkc.evidence.quality import Quality
from shrinkc.latency.probe import Comparison
from shrinkc.report.validation import Validation

SCHEMA = "shrinkc.check/1"

PASSED, FAILED, MISSING, INCONCLUSIVE, SKIPPED = "passed", "failed", "missing", "inconclusive", "skipped"

GRAVEST_FIRST = (FAILED, MISSING, INCONCLUSIVE)
"""Verdicts that keep a check from passing; ``missing`` is an engine asked for by name that is not here."""


@dataclass(frozen=True)
class Verdict:
    """One limit, and what was found.

    Attributes
    ----------
    limit : str
        Name of the limit, ``plan`` for the proof.
    subject : str
        The engine, where the limit is about one.
    status : str
        ``passed``, ``failed``, ``missing``, ``inconclusive`` or ``skipped``.
    allowed, found : str
        Readable, with units.
    bound, value : float or None
        The same as numbers: shares of samples in [0, 1], drops in points, sizes in bytes; relative budgets are made absolute.
    detail : str
        Why it is not passed, or what else a reader should know.
    """

    limit: str
    status: str
    allowed: str
    found: str
    bound: float | None = None
    value: float | None = None
    subject: str = ""
    detail: str = ""

    @property
    def name(self) -> str:
        """What the limit is called where there is one line for each."""
        return f"{self.limit} ({self.subject})" if self.subject else self.limit


@dataclass(frozen=True)
class Check:
    """All verdicts, and the measurements they rest on.

    Attributes
    ----------
    quality, latency, validation
        None where no limit asked for them.
    """

    original: str
    compressed: str
    original_sha256: str
    compressed_sha256: str
    verdicts: tuple[Verdict, ...]
    quality: Quality | None
    latency: Comparison | None
    validation: Validation | None
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def outcome(self) -> str:
        """The gravest of all verdicts."""
        statuses = {verdict.status for verdict in self.verdicts}
        return next((status for status in GRAVEST_FIRST if status in statuses), PASSED)

    def of_status(self, status: str) -> list[Verdict]:
        """Verdicts of one status."""
        return [verdict for verdict in self.verdicts if verdict.status == status]

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema first."""
        return {"schema": SCHEMA, "outcome": self.outcome, **asdict(self)}


def remarks(check: Check) -> list[str]:
    """What a reader must know besides the verdicts."""
    lines = []
    if check.quality is not None:
        lines.append(f"Quality on {check.quality.samples} samples of {check.quality.data}, on onnxruntime.")
    if check.latency is not None:
        marked = "CONTENDED: others had the processor, so CPU time counts; " if check.latency.is_contended else ""
        lines.append(
            f"Speed of onnxruntime's CPU provider here, {check.latency.threads} thread(s), batch {check.latency.batch}, "
            f"{marked}load {check.latency.load_average:.1f}."
        )
    if check.validation is not None:
        lines.append(f"Engines compared on {check.validation.inputs}.")
    packages = ", ".join(f"{name} {version}" for name, version in check.versions.items())
    return [*lines, f"{packages}; {check.machine['processor']}, {check.machine['cpus']} CPUs, {check.machine['system']}."]
