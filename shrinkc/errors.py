"""The errors shrinkc raises on purpose, each with its exit code and one printed form."""

from __future__ import annotations

from typing import ClassVar


class ShrinkcError(Exception):
    """Base of every error that a user can cause and mend.

    Parameters
    ----------
    message : str
        What went wrong.
    where : str, optional
        Node, tensor, file or recipe key it concerns.
    because : str, optional
        The cause, as far as it is known.
    hint : str, optional
        What to try.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, where: str = "", because: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.where, self.because, self.hint = message, where, because, hint

    def also_try(self, text: str) -> None:
        """Add to the hint."""
        self.hint = f"{self.hint}; {text}" if self.hint else text

    def __str__(self) -> str:
        parts = [("  at: ", self.where), ("  because: ", self.because), ("  try: ", self.hint)]
        return "\n".join([self.message, *(label + text for label, text in parts if text)])


class GateError(ShrinkcError):
    """Everything ran, and the result is not what was asked for."""

    exit_code = 1


class RecipeError(ShrinkcError):
    """A setting that is wrong, unknown or would have no effect."""

    exit_code = 2


class ModelLoadError(ShrinkcError):
    """The model file cannot be read."""

    exit_code = 3


class UnsupportedGraphError(ShrinkcError):
    """The model is readable, and uses something that would be lost or damaged."""

    exit_code = 3


class BudgetError(ShrinkcError):
    """No admissible plan meets the budget."""

    exit_code = 4


class VerificationError(ShrinkcError):
    """The proof failed, or could not be run when it was asked for."""

    exit_code = 5


class RuntimeUnavailable(ShrinkcError):
    """An engine, device or board that the run needs is missing."""

    exit_code = 6


class BuildError(ShrinkcError):
    """A runtime refused to build or load the model."""

    exit_code = 7


class CalibrationError(ShrinkcError):
    """Data that is missing, too little, or does not fit the model."""

    exit_code = 8


class PluginError(ShrinkcError):
    """A plug-in that is unknown, registered twice or fails to import."""

    exit_code = 9


class InconclusiveError(ShrinkcError):
    """A measurement was disturbed too much to tell."""

    exit_code = 10


class TrainingError(ShrinkcError):
    """Training cannot go on; what was best so far is kept."""

    exit_code = 11


class DivergedError(TrainingError):
    """The loss is not finite."""
