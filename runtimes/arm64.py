"""Engines of phones on the instruction set of phones, emulated: their arithmetic is Arm's, their speed is not.

``tools/arm64_root.sh FOLDER`` makes the small system this needs; ``SHRINKC_ARM64_ROOT`` names the folder.
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from shrinkc.runtimes.elsewhere import Elsewhere
from shrinkc.runtimes.isolated import IsolatedEngine
from shrinkc.runtimes.isolation import AGENT, Child, child_variables
from shrinkc.runtimes.mnn import Mnn
from shrinkc.runtimes.ncnn import Ncnn

from shrinkc.api import Probe
from shrinkc.errors import RecipeError, RuntimeUnavailable

ENGINES: dict[str, type[IsolatedEngine]] = {"mnn": Mnn, "ncnn": Ncnn}
"""Those that run under emulation; onnxruntime and LiteRT crash in it."""

FOLDER = "SHRINKC_ARM64_ROOT"
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
HINT = "tools/arm64_root.sh FOLDER, then export SHRINKC_ARM64_ROOT=FOLDER"


@dataclass(frozen=True)
class EmulatedArm64:
    """A small arm64 system under qemu's user mode; ``root`` is the folder that the script made."""

    root: Path
    name: str = "arm64 emulated"
    can_be_timed: bool = False
    is_here: bool = False

    def missing(self) -> str:
        """Why it cannot be used; empty if it can."""
        if not (self.root / "python").is_file():
            return f"no arm64 system at {self.root}"
        return "" if self._emulator() else "no qemu-aarch64-static"

    def _emulator(self) -> str | None:
        own = self.root / "host" / EMULATORS[0]
        return str(own) if own.is_file() else next(filter(None, map(shutil.which, EMULATORS)), None)

    def command(self, scratch: Path, threads: int) -> list[str]:
        """The emulator, with every instruction set it knows, and the system's Python.

        Raises
        ------
        RuntimeUnavailable
            One of them is missing.
        """
        emulator = self._emulator()
        if emulator is None or self.missing():
            raise RuntimeUnavailable("arm64 cannot be emulated here", because=self.missing(), hint=HINT)
        python = (self.root / "python").read_text(encoding="utf-8").strip()
        system = self.root / "root"
        return [emulator, "-cpu", "max", "-L", str(system), str(system / "usr" / "bin" / python), str(AGENT)]

    def environment(self, scratch: Path, threads: int) -> dict[str, str]:
        """Nothing of the caller's: its libraries are another processor's."""
        own = {"PATH": "", "HOME": str(scratch), "TMPDIR": str(scratch), "PYTHONPATH": str(self.root / "site")}
        return {**child_variables(threads), **own}

    def bring(self, child: Child, file: Path) -> str:
        """Files are shared."""
        return str(file.resolve())

    def folder(self, folder: Path) -> str:
        """Folders are shared."""
        return str(folder.resolve())

    def fetch(self, child: Child, name: str, folder: Path) -> None:
        """It is there already."""


class Emulated(Elsewhere):
    """An engine on emulated arm64; on a machine that is arm64 itself, the engine is simply used."""

    def __init__(self, engine: str, place: EmulatedArm64) -> None:
        super().__init__(f"arm64:{engine}", ENGINES[engine](place))
        self._place = place

    def probe(self) -> Probe:
        """Whether the converter, the emulator and the system are here."""
        found = super().probe()
        missing = self._place.missing()
        if found.is_available and missing:
            return Probe(False, found.version, missing, HINT)
        return replace(found, devices=(self._place.name,))


def arm64(engine: str = "ncnn") -> Elsewhere:
    """Make ncnn or MNN on the arm64 instruction set.

    Raises
    ------
    RecipeError
        Neither was asked for.
    """
    if engine not in ENGINES:
        raise RecipeError("no engine that runs on emulated arm64", where=engine, hint=f"known: {', '.join(ENGINES)}")
    if platform.machine() in ("aarch64", "arm64"):
        return Elsewhere(f"arm64:{engine}", ENGINES[engine]())
    return Emulated(engine, EmulatedArm64(Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "shrinkc" / "arm64")))
