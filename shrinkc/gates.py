"""Verdicts: figures that were counted or measured, each against its limit.  Pure."""

from __future__ import annotations

from collections.abc import Iterator

from shrinkc.analysis.cost import Cost
from shrinkc.budget import Budget
from shrinkc.errors import CalibrationError
from shrinkc.evidence.quality import Quality
from shrinkc.latency.probe import Comparison
from shrinkc.limits import Limits
from shrinkc.report import validation
from shrinkc.report.check import FAILED, INCONCLUSIVE, MISSING, PASSED, SKIPPED, Verdict
from shrinkc.report.validation import EngineResult, Validation
from shrinkc.searching import drop_of


def of_cost(limits: Limits, before: Cost, after: Cost) -> Iterator[Verdict]:
    """Multiply-accumulates, parameters and bytes; a share is one of the original's."""
    for name in ("max_macs", "max_params", "max_size"):
        limit: Budget | None = getattr(limits, name)
        if limit is not None:
            value, whole = (float(getattr(cost, limit.quantity)) for cost in (after, before))
            share = f" ({value / whole:.1%} of the original)" if whole else ""
            found, bound = limit.show(after) + share, limit.limit(before)
            yield Verdict(name, _status(value <= bound), limit.describe(before), found, bound, value)


def of_quality(limits: Limits, found: Quality) -> Iterator[Verdict]:
    """Drop, accuracy and agreement.

    Raises
    ------
    CalibrationError
        Accuracy is asked for and there are no labels, or agreement and no output has classes.
    """
    if limits.max_drop is not None:
        drop, most = drop_of(found), limits.max_drop
        allowed = f"at most {most:g} points of {_what_drops(found)}"
        yield Verdict("max_drop", _status(drop <= most), allowed, f"{drop:.2f} points", most, drop)
    if limits.min_accuracy is not None:
        yield _share("min_accuracy", limits.min_accuracy, _accuracy(found), f"the original: {found.accuracy_before:.2%}")
    if limits.min_agreement is not None:
        yield _share("min_agreement", limits.min_agreement, _agreement(found), "")


def _share(name: str, least: float, value: float, detail: str) -> Verdict:
    return Verdict(name, _status(value >= least), f"at least {least:.2%}", f"{value:.2%}", least, value, detail=detail)


def _what_drops(found: Quality) -> str:
    """What :func:`shrinkc.searching.drop_of` goes by."""
    if found.accuracy_after is not None:
        return "accuracy"
    return "agreement" if all(output.top1 is not None for output in found.agreement) else "agreement, or cosine"


def _accuracy(found: Quality) -> float:
    if found.accuracy_after is None:
        raise CalibrationError("accuracy needs labels", where="min_accuracy", because=f"{found.data} has none")
    return found.accuracy_after


def _agreement(found: Quality) -> float:
    shares = [output.top1 for output in found.agreement if output.top1 is not None]
    if not shares:
        raise CalibrationError(
            "no output has classes to agree on", where="min_agreement", hint="max_drop goes by the cosine then"
        )
    return min(shares)


def of_speed(least: float, found: Comparison) -> Verdict:
    """Speed-up; inconclusive where the measurement's own estimates lie on both sides of the limit."""
    low, high = estimates(found)
    allowed, value = f"at least {least:.2f}x", found.fair_speedup
    shown = f"{value:.2f}x ({'CPU time, ' if found.is_contended else ''}{low:.2f}x to {high:.2f}x)"
    if low < least <= high:
        reason = "estimates lie on both sides of the limit" + ("; others had the processor" if found.is_contended else "")
        return Verdict("min_speedup", INCONCLUSIVE, allowed, shown, least, value, detail=reason)
    return Verdict("min_speedup", _status(low >= least), allowed, shown, least, value)


def estimates(found: Comparison) -> tuple[float, float]:
    """Smallest and largest speed-up that a measurement speaks for.

    Wall time of the rounds; where others had the processor, CPU time, of the median block and of the least disturbed run.
    """
    if found.is_contended and found.threads == 1:
        return min(found.cpu_speedup, found.fair_speedup), max(found.cpu_speedup, found.fair_speedup)
    return found.speedup_low, found.speedup_high


def of_engines(limits: Limits, found: Validation) -> Iterator[Verdict]:
    """One verdict an engine: it loads the result and computes the same as onnxruntime."""
    for result in found.results:
        yield _of_engine(result, is_named=result.runtime in limits.runtimes)


def _of_engine(result: EngineResult, *, is_named: bool) -> Verdict:
    allowed = "loads and computes the same"
    error = max((difference.relative for difference in result.own), default=None)
    version = f"{result.runtime} {result.version}".strip()
    if result.status == validation.NOT_RUN:
        status = MISSING if is_named else SKIPPED
        return Verdict("runtimes", status, allowed, "not run", subject=result.runtime, detail=result.reason)
    off = "" if error is None else f", off by {error:.1e} of the largest value"
    reason = "; ".join(filter(None, [result.reason, result.original]))
    status = PASSED if result.status == validation.OK else FAILED
    return Verdict(
        "runtimes", status, allowed, f"{version}: {result.level}{off}", result.tolerance, error, result.runtime, reason
    )


def _status(is_met: bool) -> str:
    return PASSED if is_met else FAILED
