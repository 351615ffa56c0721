"""What a sweep found: the schema behind its JSON, its table and its chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shrinkc.analysis.cost import Cost
from shrinkc.evidence.quality import Quality
from shrinkc.latency.probe import Comparison
from shrinkc.report.rows import count, seconds, size

SCHEMA = "shrinkc.bench/1"

ACCURACY, AGREEMENT, COSINE = "accuracy", "agreement", "cosine"


@dataclass(frozen=True)
class BenchRow:
    """One run of ``compress``.

    Attributes
    ----------
    method : str
        Recipe, and criterion where another was asked for.
    budget : str
        As it was given.
    error : str
        Why there is no result; empty where there is one.
    output : str
        The model.
    cost : Cost or None
    quality : Quality or None
        None where there was no data.
    latency : Comparison or None
        Against the original, in turns.
    latency_runtime : str
        What it was measured on.
    seconds : float
        Of the run, what it shares with earlier ones left out.
    """

    method: str
    budget: str
    error: str = ""
    output: str = ""
    cost: Cost | None = None
    quality: Quality | None = None
    latency: Comparison | None = None
    latency_runtime: str = ""
    seconds: float = 0.0

    @property
    def score(self) -> float | None:
        """Quality as one number in [0, 1], see :func:`metric`."""
        return None if self.quality is None else after(self.quality)

    @property
    def latency_share(self) -> float | None:
        """Time of a run over the original's."""
        return None if self.latency is None else 1 / self.latency.fair_speedup


@dataclass(frozen=True)
class Bench:
    """All runs of a sweep.

    Attributes
    ----------
    quantity : str
        What was budgeted: ``macs``, ``params``, ``size``, ``speedup`` or ``prune_ratio``.
    before : Cost or None
        Of the original; None where no run succeeded.
    metric : str
        ``accuracy``, ``agreement``, ``cosine``, or empty where quality was not measured.
    baseline : str
        The method of random scores; empty where it was not asked for.
    """

    model: str
    model_sha256: str
    quantity: str
    rows: tuple[BenchRow, ...]
    before: Cost | None
    metric: str
    baseline: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def score_before(self) -> float | None:
        """The original's accuracy; it agrees with itself."""
        known = [row.quality for row in self.rows if row.quality is not None]
        if not known:
            return None
        return known[0].accuracy_before if self.metric == ACCURACY else 1.0

    @property
    def is_contended(self) -> bool:
        """Whether others had the processor in any measurement."""
        return any(row.latency is not None and row.latency.is_contended for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema first."""
        data = asdict(self)
        for row, own in zip(self.rows, data["rows"], strict=True):
            own.update(score=row.score, latency_share=row.latency_share)
            own["is_contended"] = None if row.latency is None else row.latency.is_contended
            own["fair_speedup"] = None if row.latency is None else row.latency.fair_speedup
        return {"schema": SCHEMA, **data, "score_before": self.score_before}


def metric(rows: Sequence[BenchRow]) -> str:
    """What quality is told by: accuracy where there are labels, else agreement on the largest class, else cosine."""
    known = [row.quality for row in rows if row.quality is not None]
    if not known:
        return ""
    if all(found.accuracy_after is not None for found in known):
        return ACCURACY
    return AGREEMENT if all(output.top1 is not None for found in known for output in found.agreement) else COSINE


def after(found: Quality) -> float:
    """Accuracy, else the least agreement of all outputs, else the least cosine."""
    if found.accuracy_after is not None:
        return found.accuracy_after
    shares = [output.top1 for output in found.agreement if output.top1 is not None]
    return min(shares if len(shares) == len(found.agreement) else [output.cosine for output in found.agreement])


def markdown(bench: Bench, chart: str) -> str:
    """The table, with the chart above it if there is one."""
    lines = [f"# shrinkc bench: {bench.model}", ""]
    lines += [f"![{bench.metric} against MACs and time]({chart})", ""] if chart else []
    lines += [f"| method | {bench.quantity} | MACs | parameters | size | {bench.metric or 'quality'} | latency | speed |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---:|", *_original(bench)]
    lines += [f"| {' | '.join(cells(row, bench))} |" for row in bench.rows]
    return "\n".join([*lines, "", *(f"- {remark}" for remark in remarks(bench))]) + "\n"


def _original(bench: Bench) -> list[str]:
    before = bench.before
    if before is None:
        return []
    measured = next((row.latency.before for row in bench.rows if row.latency is not None), None)
    latency = "" if measured is None else seconds(measured.wall_median_s)
    figures = [count(before.macs), count(before.parameters), size(before.size_bytes), _score(bench.score_before), latency]
    return [f"| original | | {' | '.join(figures)} | |"]


def cells(row: BenchRow, bench: Bench) -> list[str]:
    """Method, budget, and what came of it."""
    if row.cost is None or bench.before is None:
        return [row.method, row.budget, "", "", "", row.error, "", ""]
    cost, before = row.cost, bench.before
    shares = [f"{part / whole:.1%}" for part, whole in zip(_figures(cost), _figures(before), strict=True)]
    return [row.method, row.budget, *shares, _score(row.score), *_speed(row.latency)]


def _figures(cost: Cost) -> tuple[float, float, float]:
    return cost.macs, cost.parameters, cost.size_bytes


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _speed(found: Comparison | None) -> list[str]:
    if found is None:
        return ["", ""]
    marked = " *" if found.is_contended else ""
    return [seconds(found.fair_seconds), f"{found.fair_speedup:.2f}x{marked}"]


def remarks(bench: Bench) -> list[str]:
    """What a reader must know besides the figures."""
    lines = []
    judged = next((row.quality for row in bench.rows if row.quality is not None), None)
    if judged is None:
        lines.append("Quality was NOT measured: no data was given, so there is no chart.")
    else:
        lines.append(f"Quality: {bench.metric} on {judged.samples} samples of {judged.data}.")
    timed = next((row.latency for row in bench.rows if row.latency is not None), None)
    if timed is not None:
        runtimes = dict.fromkeys(row.latency_runtime for row in bench.rows if row.latency is not None)
        where = f"{', '.join(runtimes)}, {timed.threads} thread(s), batch {timed.batch}"
        lines.append(f"Latency: {where}; each model in turns with the original.")
    if bench.is_contended:
        lines.append("* contended: others had the processor, so CPU time of the least disturbed run is shown.")
    if bench.baseline:
        lines.append(f"{bench.baseline}: channels are chosen at random, the rest is done alike.")
    return [*lines, f"{bench.machine['processor']}, {bench.machine['cpus']} CPUs, {bench.machine['system']}."]
