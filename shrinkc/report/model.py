"""The report: everything a run found out, as data with a versioned schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from shrinkc.allocate import GroupForecast
from shrinkc.analysis.cost import Cost
from shrinkc.analysis.forming import Group
from shrinkc.analysis.groups import Analysis, Refusal
from shrinkc.api import RepairedLayer
from shrinkc.evidence.quality import Quality
from shrinkc.factor_proof import FactorProof
from shrinkc.latency.probe import Comparison
from shrinkc.plan import Plan
from shrinkc.verify import Proof

SCHEMA = "shrinkc.report/1"


@dataclass(frozen=True)
class GroupRow:
    """One group, before and after.

    Attributes
    ----------
    predicted_error : float or None
        Of its consumers' outputs after the best refit, as a share of their energy; None without evidence.
    marginal_cost : float or None
        Predicted error that the last step added, per percent of the budgeted quantity which it saved.
    """

    name: str
    kind: str
    channels_before: int
    channels_after: int
    is_exact: bool
    predicted_error: float | None = None
    marginal_cost: float | None = None


@dataclass(frozen=True)
class FactorRow:
    """One layer that could be factorised, or could not.

    Attributes
    ----------
    layer : str
        Name of its output.
    form : str or None
        Name of the rewrite; None where none was tried.
    rank, full_rank, break_even : int or None
        The rank it got; the largest there is; the largest that costs less than the layer whole and that the target likes.
    predicted_error, measured_error : float or None
        Of the layer's outputs, as a share of their variance (without data: of the squared weights), in closed form before
        anything was built, and from running what was built.
    cpu_before_s, cpu_after_s : float or None
        CPU seconds of the layer by itself, whole and factorised; None where not measured.
    predicted_before_s, predicted_after_s : float or None
        Seconds of it inside the model by what the run's forecast of latency rests on; None where there is none.
    reason : str
        Why it stays whole; empty where it was factorised.
    """

    layer: str
    form: str | None = None
    rank: int | None = None
    full_rank: int | None = None
    break_even: int | None = None
    predicted_error: float | None = None
    measured_error: float | None = None
    cpu_before_s: float | None = None
    cpu_after_s: float | None = None
    predicted_before_s: float | None = None
    predicted_after_s: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class RuntimeLevel:
    """How far a runtime got: ``converted`` < ``loaded`` < ``validated`` < ``timed``, or ``not run`` with the reason."""

    runtime: str
    level: str
    detail: str


@dataclass(frozen=True)
class Calibration:
    """Samples that evidence and compensation looked at, and what the latter did.

    Attributes
    ----------
    data : str
        Where they came from; ``synthetic`` where they were made up.
    samples : int
    is_synthetic : bool
    compensation : str
    layers : tuple of RepairedLayer
    """

    data: str
    samples: int
    is_synthetic: bool
    compensation: str
    layers: tuple[RepairedLayer, ...]


@dataclass(frozen=True)
class Recovery:
    """Training of a cut model with its original as the teacher.

    Attributes
    ----------
    budget : str
        As it was given.
    steps : int
    seconds : float
        Of training, evaluation included.
    samples, held_out : int
        Trained on, and held out to tell which model is the best; the same ones if ``is_shared``.
    is_shared : bool
    is_synthetic : bool
        They were made up from the model.
    loss_before, loss_after : float
        On the held-out samples.
    agreement_before, agreement_after : float or None
        Share of them with the original's largest class.
    accuracy_before, accuracy_after : float or None
        On them, with labels.
    stopped : str
        Why training ended.
    processes : int
    inside : tuple of str
        Values inside that were compared.
    settings : mapping
        As resolved.
    """

    budget: str
    steps: int
    seconds: float
    samples: int
    held_out: int
    is_shared: bool
    is_synthetic: bool
    loss_before: float
    loss_after: float
    agreement_before: float | None
    agreement_after: float | None
    accuracy_before: float | None
    accuracy_after: float | None
    stopped: str
    processes: int
    inside: tuple[str, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """Result of one run.

    Attributes
    ----------
    input_shapes : mapping of input name to shape
        Sizes at which the graph was analysed and MACs are counted.
    factors : tuple of FactorRow
        Every layer that could be factorised or could not; empty where that was not asked for.
    factor_proof : FactorProof or None
        That the factorised graph equals the one before with the products of the factors as weights.
    before, after : Cost
        MACs and parameters are counted; bytes are those of the files once written.
    is_written : bool
        False for a dry run: ``after`` is then predicted, the size in bytes estimated.
    latency_runtime : str
        What ``latency`` was measured on.
    latency_basis : str
        What the predicted latencies in ``before`` and ``after`` rest on: measured here, recorded on a device, or estimated.
    board : tuple of mapping
        What came back from boards since, see :class:`shrinkc.board_results.BoardResult`; empty when a run ends.
    """

    model: str
    model_sha256: str
    output: str | None
    output_sha256: str | None
    recipe: Mapping[str, Any]
    recipe_sha256: str
    input_shapes: Mapping[str, tuple[int, ...]]
    before: Cost
    after: Cost
    is_written: bool
    groups: tuple[GroupRow, ...]
    refusals: tuple[Refusal, ...]
    quality: Quality
    latency: Comparison | None
    latency_note: str
    proof: Proof | None
    proof_note: str
    runtimes: tuple[RuntimeLevel, ...]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    calibration: Calibration | None = None
    factors: tuple[FactorRow, ...] = ()
    factor_proof: FactorProof | None = None
    recovery: Recovery | None = None
    latency_runtime: str = "onnxruntime-cpu"
    latency_basis: str = ""
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    board: tuple[Mapping[str, Any], ...] = ()

    @property
    def predicted_error(self) -> float | None:
        """Sum over the groups; None where it is known of none."""
        known = [group.predicted_error for group in self.groups if group.predicted_error is not None]
        return sum(known) if known else None

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema first."""
        data = asdict(self)
        data["predicted_error"] = self.predicted_error
        data["factor_proof"] = None if self.factor_proof is None else self.factor_proof.to_json()
        data["proof"] = None if self.proof is None else self.proof.to_json()
        data["quality"]["is_measured"] = self.quality.is_measured
        return {"schema": SCHEMA, **data}


def group_rows(analysis: Analysis, plan: Plan, forecast: Mapping[str, GroupForecast] | None = None) -> tuple[GroupRow, ...]:
    """Channels of every group before and after, and what that is predicted to cost where that is known."""
    keep, known = plan.keep(), forecast or {}
    return tuple(_group_row(group, keep, known.get(group.name)) for group in analysis.groups)


def _group_row(group: Group, keep: Mapping[str, tuple[int, ...]], forecast: GroupForecast | None) -> GroupRow:
    return GroupRow(
        group.name,
        group.kind.value,
        group.width * group.multiplicity,
        len(keep.get(group.name, range(group.width))) * group.multiplicity,
        group.is_exact,
        None if forecast is None else forecast.error,
        None if forecast is None else forecast.marginal,
    )
