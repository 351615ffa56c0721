"""The before/after rows that the terminal table and the Markdown summary share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from shrinkc.report.model import Calibration, FactorRow, Recovery, Report


@dataclass(frozen=True)
class Row:
    """One line of the table, ready to print."""

    label: str
    before: str
    after: str
    change: str


def rows(report: Report) -> list[Row]:
    """Every quantity that was counted, measured or predicted."""
    before, after = report.before, report.after
    label = "file size" if report.is_written else "file size (estimated)"
    table = [
        Row("MACs", count(before.macs), count(after.macs), change(before.macs, after.macs)),
        Row("parameters", count(before.parameters), count(after.parameters), change(before.parameters, after.parameters)),
        Row(label, size(before.size_bytes), size(after.size_bytes), change(before.size_bytes, after.size_bytes)),
    ]
    return table + _quality_rows(report) + _forecast_rows(report) + _latency_rows(report)


def _forecast_rows(report: Report) -> list[Row]:
    """What the layers were predicted to take together, above what the whole model was measured to take."""
    before, after = report.before.latency_s, report.after.latency_s
    if before is None or after is None:
        return []
    marked = "estimated" if report.latency_basis.startswith("estimated") else "predicted"
    return [Row(f"latency, {marked}", seconds(before), seconds(after), f"{before / after:.2f}x speed")]


def _quality_rows(report: Report) -> list[Row]:
    quality = report.quality
    table = []
    if quality.accuracy_before is not None and quality.accuracy_after is not None:
        points = 100 * (quality.accuracy_after - quality.accuracy_before)
        table.append(
            Row("accuracy", f"{quality.accuracy_before:.2%}", f"{quality.accuracy_after:.2%}", f"{points:+.2f} points")
        )
    for output in quality.agreement:
        if output.top1 is not None:
            table.append(Row(f"agreement ({output.output})", "100.00%", f"{output.top1:.2%}", ""))
        else:
            table.append(
                Row(f"cosine ({output.output})", "1.0000", f"{output.cosine:.4f}", f"error {output.relative_error:.1%}")
            )
    return table


def _latency_rows(report: Report) -> list[Row]:
    latency = report.latency
    if latency is None:
        return []
    a, b = latency.before, latency.after
    marked = " (contended)" if a.is_contended or b.is_contended else ""
    least = Row("CPU time, least", seconds(a.cpu_least_s), seconds(b.cpu_least_s), f"{latency.fair_speedup:.2f}x speed")
    table = [
        Row(f"latency, median{marked}", seconds(a.wall_median_s), seconds(b.wall_median_s), f"{latency.speedup:.2f}x speed"),
        Row(f"latency, p90{marked}", seconds(a.wall_p90_s), seconds(b.wall_p90_s), ""),
        Row("CPU time per run", seconds(a.cpu_median_s), seconds(b.cpu_median_s), f"{latency.cpu_speedup:.2f}x speed"),
    ]
    return [*table, least] if marked and latency.threads == 1 else table


def remarks(report: Report) -> list[str]:
    """What a reader must know besides the table."""
    lines = []
    if (latency := report.latency) is not None:
        lines.append(
            f"Latency: {report.latency_runtime} on this machine, {latency.threads} thread(s), batch {latency.batch}, "
            f"interleaved; speed-up per round {latency.speedup_low:.2f}x to {latency.speedup_high:.2f}x."
        )
    elif report.latency_note:
        lines.append(f"Latency: {report.latency_note}.")
    if report.latency_basis:
        lines.append(f"Predicted latency: {report.latency_basis}.")
    lines.append(_quality_remark(report))
    if report.calibration is not None:
        lines.append(_calibration_remark(report.calibration))
    if report.recovery is not None:
        lines.append(_recovery_remark(report.recovery))
    lines += _prediction_remark(report)
    lines += _factor_remarks(report)
    if report.proof is not None or report.factor_proof is None:
        lines.append(_proof_remark(report))
    lines += _factor_proof_remark(report)
    lines += [
        f"{level.runtime}: {level.level}: {level.detail}."
        for place, level in enumerate(report.runtimes)
        if place or level.level == "not run"
    ]
    return [*lines, *report.notes]


def _quality_remark(report: Report) -> str:
    quality = report.quality
    if not quality.is_measured:
        return "Quality was NOT measured: no data was given (--data FILE.npz)."
    if quality.accuracy_before is None:
        return (
            f"Quality: agreement with the original on {quality.samples} samples of {quality.data}; no labels, so no accuracy."
        )
    return f"Quality: accuracy and agreement on {quality.samples} samples of {quality.data}."


def _calibration_remark(used: Calibration) -> str:
    what = f"Calibration: {used.samples} samples of {used.data}" + (" (made up from the model)" if used.is_synthetic else "")
    if not used.layers:
        return f"{what}; compensation: {used.compensation}."
    before, after = (100 * sum(getattr(layer, name) for layer in used.layers) / len(used.layers) for name in ERRORS)
    return f"{what}; {used.compensation}: mean error of {len(used.layers)} layers from {before:.1f} % to {after:.1f} %."


def _inside(recovery: Recovery) -> str:
    if not recovery.settings["feature_weight"]:
        return ""
    count = len(recovery.inside)
    return f", {count or 'no'} {'value' if count == 1 else 'values'} inside compared"


def _recovery_remark(recovery: Recovery) -> str:
    judged = "the samples it trained on" if recovery.is_shared else f"{recovery.held_out} samples held out"
    made_up = " (made up from the model)" if recovery.is_synthetic else ""
    changes = [f"loss from {recovery.loss_before:.4g} to {recovery.loss_after:.4g}"]
    for name, before, after in (
        ("agreement", recovery.agreement_before, recovery.agreement_after),
        ("accuracy", recovery.accuracy_before, recovery.accuracy_after),
    ):
        if before is not None and after is not None:
            changes.append(f"{name} from {before:.2%} to {after:.2%}")
    shared = f" by {recovery.processes} processes" if recovery.processes > 1 else ""
    how = f"rate {recovery.settings['learning_rate']:g}, {recovery.settings['precision']}{_inside(recovery)}"
    where = f"{recovery.samples} samples{made_up}"
    steps = "1 step" if recovery.steps == 1 else f"{recovery.steps} steps"
    return (
        f"Recovery: {steps} ({how}) in {seconds(recovery.seconds)}{shared} on {where}; "
        f"on {judged}: {', '.join(changes)}; {recovery.stopped}."
    )


ERRORS = ("error_before", "error_after")


def _prediction_remark(report: Report) -> list[str]:
    if report.predicted_error is None:
        return []
    known = sum(group.predicted_error is not None for group in report.groups)
    share = f"{report.predicted_error:.2%} of their variance"
    return [f"Predicted error of the outputs (an estimate): {share}, summed over {known} groups."]


def _proof_remark(report: Report) -> str:
    proof = report.proof
    if proof is None:
        return f"Proof: {report.proof_note}."
    worst = max(trial.error for trial in proof.trials)
    weak = " The removal hardly shows in the outputs, so the proof has little to see." if proof.is_weak else ""
    return (
        f"Proof: passed; equal to the original with the removed channels zeroed in {len(proof.trials)} trials "
        f"(worst difference {worst:.2g} of the tolerance).{weak}"
    )


def _factor_remarks(report: Report) -> list[str]:
    """How many layers were factorised, and which ones that save work were left alone as they save no time."""
    done = [row for row in report.factors if not row.reason]
    if not report.factors:
        return []
    lines = [f"Factorised: {_by_form(done)}, of {len(report.factors)} that were looked at.{_as_predicted(done)}"]
    slow = [(row.layer, *times_of(row)) for row in report.factors if row.reason and times_of(row)]
    if slow:
        times = [f"{layer} ({whole} and {factorised})" for layer, whole, factorised in slow]
        more = f", and {len(times) - MOST_NAMED} more" if len(times) > MOST_NAMED else ""
        lines.append(f"Left whole, as factors save no time (whole and factorised): {', '.join(times[:MOST_NAMED])}{more}.")
    return lines


def _by_form(done: list[FactorRow]) -> str:
    """How many layers, and which forms they have."""
    forms = Counter(row.form for row in done)
    named = ", ".join(f"{count} as {form}" for form, count in forms.most_common())
    return f"{len(done)} layer{'' if len(done) == 1 else 's'} ({named})" if done else "no layer"


def _as_predicted(done: list[FactorRow]) -> str:
    """How far measured errors are from those that were predicted before anything was built."""
    pairs = [(row.predicted_error, row.measured_error) for row in done]
    off = [abs(found - told) / told for told, found in pairs if told is not None and found is not None and told > LEAST_ERROR]
    return f" Errors of layers are measured as they were predicted, within {max(off):.1g} of them." if off else ""


LEAST_ERROR = 1e-9
"""Share of a layer's variance below which errors are rounding."""


def times_of(row: FactorRow) -> tuple[str, str] | tuple[()]:
    """Times of a layer whole and factorised, readable: measured by itself, else predicted; empty where neither is known."""
    if row.cpu_before_s is not None and row.cpu_after_s is not None:
        return seconds(row.cpu_before_s), seconds(row.cpu_after_s)
    if row.predicted_before_s is not None and row.predicted_after_s is not None:
        return f"{seconds(row.predicted_before_s)} predicted", f"{seconds(row.predicted_after_s)} predicted"
    return ()


MOST_NAMED = 3
"""Layers that a remark names; the report has all of them."""


def _factor_proof_remark(report: Report) -> list[str]:
    proof = report.factor_proof
    if proof is None:
        return []
    worst = max(trial.error for trial in proof.trials)
    return [
        f"Proof of the factors: passed; equal to the graph before with the products of the factors as weights of "
        f"{proof.layers} layers in {len(proof.trials)} trials (worst difference {worst:.2g} of the tolerance)."
    ]


def error(number: float | None) -> str:
    """Readable share of energy, 1.23 %; a dash where it is not known."""
    return "-" if number is None else f"{100 * number:.3g} %"


def count(number: float) -> str:
    """Readable count: 1.23 M."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= factor:
            return f"{number / factor:.2f} {unit}"
    return f"{number:.0f}"


def size(number: float) -> str:
    """Readable bytes: 1.23 MB (decimal)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.2f} {unit}"
    return f"{number:.0f} B"


def factor_cells(row: FactorRow) -> tuple[str, ...]:
    """One layer for a table: form, rank, errors predicted and measured, CPU times whole and factorised, why whole."""
    rank = "-" if row.rank is None else f"{row.rank} of {row.full_rank}"
    times = times_of(row) or ("-", "-")
    return (row.form or "-", rank, error(row.predicted_error), error(row.measured_error), *times, row.reason)


FACTOR_COLUMNS = ("form", "rank", "predicted", "measured", "time whole", "factorised", "stays whole, because")


def seconds(number: float) -> str:
    """Readable time: 1.23 ms."""
    return f"{number:.2f} s" if number >= 1 else f"{1e3 * number:.2f} ms" if number >= 1e-3 else f"{1e6 * number:.0f} us"


def change(before: float, after: float) -> str:
    """Relative change: -50.0 %."""
    return f"{100 * (after / before - 1):+.1f} %" if before else ""
