"""Times of layers whole and factorised that were measured before, in a file.

A verdict that was measured twice could come out otherwise, so what is known is never measured again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from shrinkc.files import write_text
from shrinkc.latency.layer_times import LayerTimes

SCHEMA = "shrinkc.measured-layers/1"


@dataclass
class MeasuredPairs:
    """Times by what was timed.

    Attributes
    ----------
    path : Path or None
        The file; nothing outlives the run without one.
    """

    path: Path | None = None

    def of(self, key: str) -> LayerTimes | None:
        """Times of two versions of a layer; None where nobody measured them."""
        return self._known.get(key)

    def add(self, key: str, times: LayerTimes) -> None:
        """Keep what was measured."""
        self._known[key] = times
        if self.path is not None:
            layers = {name: asdict(entry) for name, entry in sorted(self._known.items())}
            write_text(self.path, json.dumps({"schema": SCHEMA, "layers": layers}, indent=1) + "\n")

    @cached_property
    def _known(self) -> dict[str, LayerTimes]:
        """What the file holds; nothing where it cannot be read, as all of it can be measured again."""
        if self.path is None or not self.path.is_file():
            return {}
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            entries = data["layers"] if data["schema"] == SCHEMA else {}
            return {name: LayerTimes(**entry) for name, entry in entries.items()}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
