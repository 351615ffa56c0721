"""The report of a run: what a plan will do, what was done, and where both are written down."""

from __future__ import annotations

import json
from dataclasses import replace

from shrinkc import merging
from shrinkc.api import Repaired
from shrinkc.artifacts import Artifacts
from shrinkc.carrying_out import Built
from shrinkc.evidence.quality import Quality
from shrinkc.files import sha256, write_text
from shrinkc.opening import Opened, counted_cost
from shrinkc.planning import Planned
from shrinkc.recipe import CHANNELS, Recipe
from shrinkc.recovering import Recovered
from shrinkc.report import facts
from shrinkc.report import json as report_json
from shrinkc.report import markdown as report_markdown
from shrinkc.report.model import Calibration, Report, group_rows
from shrinkc.run import Run


def predicted(run: Run, chosen: Planned) -> Report:
    """Report of what a plan will do; nothing is measured yet."""
    opened, recipe = run.opened, run.recipe
    cost = chosen.cost or opened.cost.of(opened.analysis.keep_mask(chosen.plan.keep()))
    before = opened.cost.dense()
    return Report(
        model=opened.path.name,
        model_sha256=opened.sha256,
        output=str(run.artifacts.output),
        output_sha256=None,
        recipe=recipe.to_json(),
        recipe_sha256=recipe.sha256(),
        input_shapes=opened.shapes,
        before=replace(before, size_bytes=opened.size_bytes),
        after=cost,
        is_written=False,
        groups=group_rows(opened.analysis, chosen.plan, chosen.forecast),
        refusals=tuple(opened.analysis.refusals),
        quality=Quality(),
        latency=None,
        latency_note="not run: dry run",
        proof=None,
        proof_note="not run: dry run",
        runtimes=(),
        versions=facts.versions(),
        machine=facts.machine(),
        latency_basis="" if run.timed is None else f"{run.timed.basis}: {run.timed.detail}",
        notes=(*_notes(run), *chosen.notes),
    )


def carried_out(run: Run, chosen: Planned, built: Built, recovered: Recovered, size_bytes: int) -> Report:
    """Report of the model that was written; it is not measured yet.

    Parameters
    ----------
    run : Run
    chosen : Planned
    built : Built
    recovered : Recovered
    size_bytes : int
        Of the files of the model.
    """
    report = predicted(run, chosen)
    counted = report.after
    if built.factorised is not None:
        counted = replace(counted_cost(built.model, run.opened.shapes), latency_s=report.after.latency_s)
    return replace(
        report,
        is_written=True,
        output_sha256=sha256(run.artifacts.output),
        after=replace(counted, size_bytes=size_bytes),
        proof=built.proof,
        proof_note="not run: --no-verify" if not run.recipe.verify else "",
        calibration=_calibration(run, built.repair),
        factors=run.factorising.rows(chosen.plan.ranks, built.factorised) if run.recipe.method != CHANNELS else (),
        factor_proof=built.factor_proof,
        recovery=recovered.recovery,
        notes=(*report.notes, *built.repair.notes),
    )


def _calibration(run: Run, repair: Repaired) -> Calibration | None:
    used = run.samples.calibration
    if used is None:
        return None
    return Calibration(used.source, used.n_samples, used.is_synthetic, run.recipe.compensation, repair.layers)


def _notes(run: Run) -> tuple[str, ...]:
    """What was done to the model, or taken for granted about it, without being asked for."""
    about_samples = (run.samples.note,) if run.samples.note else ()
    merged = (merging.note_of(run.opened.merged),) if run.opened.merged else ()
    return (*_inlined(run.opened), *merged, *_assumptions(run.opened), *about_samples)


def _inlined(opened: Opened) -> tuple[str, ...]:
    if not opened.inlined:
        return ()
    return (f"Local functions were put in the place of their calls: {', '.join(opened.inlined)}.",)


def _assumptions(opened: Opened) -> tuple[str, ...]:
    """What was taken for granted about sizes nobody gave."""
    if not opened.assumed:
        return ()
    sizes = ", ".join(f"{name} {'x'.join(map(str, opened.shapes[name]))}" for name in opened.assumed)
    return (
        f"Free sizes were assumed for the analysis and for counting MACs: {sizes} (--input-shapes or --data say otherwise).",
    )


def write_recipe(recipe: Recipe, artifacts: Artifacts) -> None:
    """Write the resolved recipe beside the output."""
    write_text(artifacts.beside(".recipe.json"), json.dumps(recipe.to_json(), indent=1) + "\n")


def written(report: Report, artifacts: Artifacts) -> Report:
    """The report with the files of the run, written as JSON and as Markdown."""
    files = {
        "model": report.output or str(artifacts.output),
        "report": str(artifacts.beside(".report.json")),
        "summary": str(artifacts.beside(".report.md")),
        "recipe": str(artifacts.beside(".recipe.json")),
    }
    if artifacts.plan is not None:
        files["plan"] = str(artifacts.plan)
    report = replace(report, files={**files, **report.files})
    write_text(artifacts.beside(".report.json"), report_json.dumps(report))
    write_text(artifacts.beside(".report.md"), report_markdown.render(report))
    return report
