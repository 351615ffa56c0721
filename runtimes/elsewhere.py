"""An engine whose models are converted on this machine and run in another place: an emulated processor, a board."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from shrinkc.runtimes.isolated import IsolatedEngine, IsolatedSession

from shrinkc.api import Artifact, Convert, ConvertConfig, Probe, RunConfig, SupportReport


class Elsewhere:
    """An engine in another place.  ``auto`` leaves it out: it is used where it is named.

    Parameters
    ----------
    name : str
    engine : IsolatedEngine
        Made for that place.
    """

    is_automatic = False

    def __init__(self, name: str, engine: IsolatedEngine) -> None:
        self.name, self.formats = name, engine.formats
        self.tolerances: Mapping[str, float] = getattr(engine, "tolerances", {})
        self._engine = engine

    def probe(self) -> Probe:
        """Whether its converter is here."""
        return replace(self._engine.probe(), devices=(self._engine.place.name,), isa=())

    def examine(self) -> Probe:
        """Import it there."""
        return replace(self._engine.examine(), devices=(self._engine.place.name,), isa=())

    def supports(self, model: Path) -> SupportReport:
        """What its checker says, here.

        Raises
        ------
        RuntimeUnavailable, BuildError
        """
        return self._engine.supports(model)

    def convert(self, model: Path, folder: Path, config: ConvertConfig) -> Artifact:
        """Convert, here.

        Raises
        ------
        RuntimeUnavailable, BuildError
        """
        return self._engine.convert(model, folder, config)

    def converter(self) -> AbstractContextManager[Convert]:
        """Of the engine, here.

        Raises
        ------
        RuntimeUnavailable
        """
        return self._engine.converter()

    def open(self, artifact: Artifact, config: RunConfig) -> IsolatedSession:
        """Load there.

        Raises
        ------
        RuntimeUnavailable
            The place cannot be reached, or the engine is missing there.
        BuildError
            The engine refuses the file, crashes or hangs.
        """
        return self._engine.open(artifact, config)
