"""A profile: where the time of a model goes, by the layers its owner knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = "shrinkc.profile/1"

OK, CONTENDED, INCONCLUSIVE = "ok", "contended", "inconclusive"


@dataclass(frozen=True)
class LayerRow:
    """One kernel of the runtime, and the nodes of the model it carries out.

    Attributes
    ----------
    name : str
        Of the first node it carries out, else the runtime's.
    kernel, op_type : str
        As the runtime calls it.
    nodes : tuple of str
        Every node it carries out, by name; empty for a conversion of layouts.
    time_s, share : float
        Of one run; share of all kernels together.
    macs, traffic_bytes : int
        Multiply-accumulates; bytes read and written if nothing stays in a cache.
    roofline_s : float
        Time by the roofline, 0 where that is not known; a kernel beats one measured on memory if its data stay in a cache.
    """

    name: str
    kernel: str
    op_type: str
    nodes: tuple[str, ...]
    time_s: float
    share: float
    macs: int
    traffic_bytes: int
    roofline_s: float

    @property
    def intensity(self) -> float:
        """Multiply-accumulates per byte."""
        return self.macs / self.traffic_bytes if self.traffic_bytes else 0.0

    @property
    def distance(self) -> float | None:
        """How many times the time by the roofline it takes."""
        return self.time_s / self.roofline_s if self.roofline_s > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "intensity": self.intensity, "distance": self.distance}


@dataclass(frozen=True)
class ModelProfile:
    """Where the time of one model goes.

    Attributes
    ----------
    run_s : float
        Median of a whole run without profiling.
    cpu_s : float
        CPU time of a run.
    drift : float
        Last block of runs over the first, minus one.
    spread : float
        Slowest block over the fastest, minus one.
    peak_memory_bytes : int
    """

    model: str
    sha256: str
    rows: tuple[LayerRow, ...]
    run_s: float
    cpu_s: float
    drift: float
    spread: float
    peak_memory_bytes: int

    @property
    def kernels_s(self) -> float:
        """Sum over the kernels."""
        return sum(row.time_s for row in self.rows)


@dataclass(frozen=True)
class Profile:
    """One model's profile, or two side by side.

    Attributes
    ----------
    outcome : str
        ``ok``, ``contended`` (others had the processor) or ``inconclusive`` (the machine was not steady).
    reason : str
        Why it is not ok.
    roofline : str
        What the times by the roofline rest on.
    """

    target: str
    runtime: str
    version: str
    provider: str
    threads: int
    batch: int
    models: tuple[ModelProfile, ...]
    outcome: str
    reason: str
    load_average: float
    roofline: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def speedup(self) -> float | None:
        """Whole run of the first model over the second's, None for a single model."""
        return self.models[0].run_s / self.models[1].run_s if len(self.models) == 2 else None

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema first."""
        data = asdict(self)
        for model, own in zip(self.models, data["models"], strict=True):
            own["rows"] = [row.to_json() for row in model.rows]
            own["kernels_s"] = model.kernels_s
        return {"schema": SCHEMA, **data, "speedup": self.speedup, "layers": [asdict(pair) for pair in pairs(self)]}


@dataclass(frozen=True)
class Pair:
    """One layer in two models; None where a model has none of that name."""

    name: str
    before_s: float | None
    after_s: float | None


def pairs(profile: Profile) -> list[Pair]:
    """Layers of two models by name, the one that takes longest first."""
    if len(profile.models) < 2:
        return []
    before, after = ({row.name: row.time_s for row in model.rows} for model in profile.models)
    found = [Pair(name, before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])]
    return sorted(found, key=lambda pair: -max(pair.before_s or 0.0, pair.after_s or 0.0))


def trace(profile: Profile) -> dict[str, Any]:
    """Chrome's trace format, which Perfetto reads: kernels of one run one after the other, a process for each model."""
    events: list[dict[str, Any]] = []
    for process, model in enumerate(profile.models, 1):
        events.append({"name": "process_name", "ph": "M", "pid": process, "tid": 1, "args": {"name": model.model}})
        started = 0.0
        for row in model.rows:
            arguments = {"kernel": row.kernel, "nodes": list(row.nodes), "macs": row.macs, "bytes": row.traffic_bytes}
            events.append(
                {
                    "name": row.name,
                    "cat": row.op_type,
                    "ph": "X",
                    "ts": 1e6 * started,
                    "dur": 1e6 * row.time_s,
                    "pid": process,
                    "tid": 1,
                    "args": arguments,
                }
            )
            started += row.time_s
    about = {"runtime": profile.runtime, "version": profile.version, "outcome": profile.outcome}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}
