"""What is installed here, what is missing, and the command that brings it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shrinkc import registry
from shrinkc.api import Probe
from shrinkc.engines import probe_of
from shrinkc.errors import PluginError, RecipeError
from shrinkc.report import facts


@dataclass(frozen=True)
class Finding:
    """One runtime: by what is installed, and, if it was asked for, by importing it in a process of its own.

    One that ``needs_name`` is none before it is told where: neither there nor missing.
    """

    runtime: str
    probe: Probe
    is_imported: bool = False
    needs_name: bool = False


@dataclass(frozen=True)
class Examination:
    """All runtimes, and the machine."""

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema first."""
        return {"schema": "shrinkc.doctor/1", **asdict(self)}


def examine() -> Examination:
    """Look at every registered runtime without importing one."""
    return Examination(facts.machine(), facts.versions(), tuple(_finding(name) for name in _names()))


def examine_by_importing() -> Examination:
    """Import every runtime that seems to be there, each in a process of its own: a broken installation shows."""
    return Examination(facts.machine(), facts.versions(), tuple(_imported(name) for name in _names()))


def _names() -> list[str]:
    return registry.names("runtimes")


def _finding(name: str) -> Finding:
    try:
        return Finding(name, probe_of(registry.built("runtimes", name)))
    except PluginError as error:
        return Finding(name, Probe(False, reason=f"{error.message}: {error.because}"))
    except RecipeError as error:  # a runtime by parameter, as remote:HOST/ENGINE, is nothing before one is given
        return Finding(name, Probe(False, reason=error.message, hint=error.hint), needs_name=True)


def _imported(name: str) -> Finding:
    finding = _finding(name)
    if not finding.probe.is_available:
        return finding
    runtime = registry.built("runtimes", name)
    if not hasattr(runtime, "examine"):
        return finding
    return Finding(name, runtime.examine(), is_imported=True)
