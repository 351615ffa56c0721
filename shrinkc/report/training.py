"""The report of ``shrinkc train``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from shrinkc.evidence.quality import Quality

SCHEMA = "shrinkc.training/1"


@dataclass(frozen=True)
class TrainingReport:
    """Result of a training run.

    Attributes
    ----------
    settings : mapping
        As resolved; the recipe that gives the same result again.
    inside : tuple of str
        Values inside that were compared with the original's.
    before, after : mapping
        Loss, agreement and accuracy on the samples held out of the training.
    phases : sequence of mapping
        What every phase did.
    density : float
        Share of the maskable weights that is left.
    masks_sha256 : str
        Of names and masks; empty without any.
    quality : Quality
        Of both models on the evaluation data, by the runtime at hand.
    stopped : str
        Why training ended.
    """

    model: str
    model_sha256: str
    output: str
    output_sha256: str
    settings: Mapping[str, Any]
    samples: int
    held_out: int
    steps: int
    seconds: float
    processes: int
    inside: tuple[str, ...]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    phases: Sequence[Mapping[str, Any]]
    density: float
    masks_sha256: str
    quality: Quality
    stopped: str
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema first."""
        return {"schema": SCHEMA, **asdict(self)}


def lines(report: TrainingReport) -> list[str]:
    """What a reader must know, a line each."""
    told = [
        f"{report.model}: {report.settings['method']}, {report.steps} steps in {report.seconds:.0f} s "
        f"on {report.samples} samples; {report.stopped}.",
        f"{_judged_on(report)}: {_changes(report.before, report.after)}.",
    ]
    if report.masks_sha256:
        told.append(
            f"Masks: {report.density:.2%} of the maskable weights are left. "
            "Zeros alone make no runtime here faster: cut channels with `shrinkc compress`."
        )
    told += [str(phase["said"]) for phase in report.phases if "said" in phase]
    quality = report.quality
    if quality.accuracy_before is not None and quality.accuracy_after is not None:
        told.append(
            f"Accuracy: {quality.accuracy_before:.2%} before, {quality.accuracy_after:.2%} after, "
            f"on {quality.samples} samples of {quality.data}."
        )
    elif quality.is_measured:
        agreement = ", ".join(
            f"{part.output} {part.top1 if part.top1 is not None else part.cosine:.4f}" for part in quality.agreement
        )
        told.append(f"Agreement with the original: {agreement}, on {quality.samples} samples of {quality.data}.")
    return told


def _judged_on(report: TrainingReport) -> str:
    if report.held_out:
        return f"Held out ({report.held_out} samples)"
    return "On the samples that it was trained on (too few to hold any out)"


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    told = [f"loss from {before['loss']:.4g} to {after['loss']:.4g}"]
    for name in ("agreement", "accuracy"):
        if before[name] is not None and after[name] is not None:
            told.append(f"{name} from {before[name]:.2%} to {after[name]:.2%}")
    return ", ".join(told)
