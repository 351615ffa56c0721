"""What a validation found: the schema behind its JSON and its table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shrinkc.api import SupportReport
from shrinkc.comparing import Difference
from shrinkc.diverging import Divergence
from shrinkc.latency.probe import Comparison

OK, FAILED, NOT_RUN = "ok", "failed", "not run"


@dataclass(frozen=True)
class EngineResult:
    """What one engine made of the compressed model.

    Attributes
    ----------
    runtime, version : str
    status : str
        ``ok``, ``failed``, or ``not run`` where the engine, or a device it needs, is missing.
    level : str
        How far it came: ``not run``, ``converted``, ``loaded``, ``validated`` (its numbers are right), ``timed``.
    reason : str
        Why it came no further, or why its numbers are right though they are off.
    place, provider, precision : str
        What it really ran on and in.
    size_bytes : int
        Of what it loads.
    tolerance : float or None
        Largest relative error of its own that passes, see :mod:`shrinkc.tolerances`; None where it came to no numbers.
    own : tuple of Difference
        Against onnxruntime on the same model: the engine's error.
    total : tuple of Difference
        Against onnxruntime on the original: the compression's error on top.
    divergence : Divergence or None
        Where the engine leaves onnxruntime, if it does.
    support : SupportReport or None
        What its checker says of the nodes.
    original : str
        Whether the original fares better, where the compressed model failed.
    warnings : tuple of str
        Of its converter.
    files : tuple of str
        What it loads, by name, and what lies beside.
    latency : Comparison or None
        Original and compressed model in turns on the engine, where that was asked for and means something.
    latency_note : str
        Why it was not timed, though asked for.
    """

    runtime: str
    version: str = ""
    status: str = NOT_RUN
    level: str = "not run"
    reason: str = ""
    place: str = ""
    provider: str = ""
    precision: str = ""
    size_bytes: int = 0
    tolerance: float | None = None
    own: tuple[Difference, ...] = ()
    total: tuple[Difference, ...] = ()
    divergence: Divergence | None = None
    support: SupportReport | None = None
    original: str = ""
    warnings: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    latency: Comparison | None = None
    latency_note: str = ""


@dataclass(frozen=True)
class Validation:
    """Results of all engines.

    Attributes
    ----------
    original, compressed : str
    original_sha256, compressed_sha256 : str
    inputs : str
        Where they came from, and how many.
    is_synthetic : bool
    compression : tuple of Difference
        Of the compressed model against the original, both on onnxruntime.
    results : tuple of EngineResult
    machine, versions : mapping
    reference : str
        What both models were run on to compare with, and how.
    """

    original: str
    compressed: str
    original_sha256: str
    compressed_sha256: str
    inputs: str
    is_synthetic: bool
    compression: tuple[Difference, ...]
    results: tuple[EngineResult, ...]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    reference: str = "onnxruntime-cpu"

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema first."""
        return {"schema": "shrinkc.validation/1", **asdict(self)}
