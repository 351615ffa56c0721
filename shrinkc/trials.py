"""Where a file runs: every engine that is here is tried on it, and held against outputs that are known."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from shrinkc import registry
from shrinkc.api import ConvertConfig, Engine, RunConfig
from shrinkc.comparing import compare, worst
from shrinkc.engines import probe_of
from shrinkc.errors import PluginError, RecipeError, ShrinkcError
from shrinkc.log import Progress

Arrays = Mapping[str, NDArray[Any]]

REFERENCE_EVALUATOR = "onnx reference evaluator"


@dataclass(frozen=True)
class Trial:
    """What one engine made of a file.

    Attributes
    ----------
    runtime, version : str
    relative_error : float or None
        Of its outputs, over the largest value expected; None where it does not run the file.
    reason : str
        Why it does not.
    """

    runtime: str
    version: str
    relative_error: float | None
    reason: str = ""


def tried(model: Path, feed: Arrays, expected: Arrays, progress: Progress) -> tuple[Trial, ...]:
    """Trials on every engine that is here and need not be asked for."""
    found = []
    for name, engine in _engines():
        with progress.stage(f"trying {name}"):
            found.append(_tried(name, engine, model, feed, expected))
    return tuple(found)


def _engines() -> Iterator[tuple[str, Engine]]:
    for name in registry.names("runtimes"):
        try:
            engine = registry.built("runtimes", name)
        except (PluginError, RecipeError):  # those that want a parameter are elsewhere
            continue
        if isinstance(engine, Engine) and getattr(engine, "is_automatic", True) and probe_of(engine).is_available:
            yield name, engine


def _tried(name: str, engine: Engine, model: Path, feed: Arrays, expected: Arrays) -> Trial:
    version = engine.probe().version
    sizes = {key: tuple(array.shape) for key, array in feed.items()}
    with tempfile.TemporaryDirectory(prefix="shrinkc-trial-") as folder:
        try:
            artifact = engine.convert(model, Path(folder), ConvertConfig(shapes=sizes))
            with engine.open(artifact, RunConfig()) as session:
                return Trial(name, version, worst(compare([expected], [session.run(feed)])).relative)
        except ShrinkcError as error:
            return Trial(name, version, None, ": ".join(filter(None, [error.message, error.because]))[:300])
        except Exception as error:  # a plug-in may raise anything; the other engines go on
            return Trial(name, version, None, f"{type(error).__name__}: {str(error)[:300]}")


def evaluated(model: Path, feed: Arrays, expected: Arrays) -> Trial:
    """Trial on onnx's own evaluator, which knows every type, is slow, and sums in the type it is given."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(str(model))
        outputs = dict(zip(evaluator.output_names, evaluator.run(None, dict(feed)), strict=True))
        error = worst(compare([expected], [outputs])).relative
    except Exception as failure:  # so may the evaluator
        return Trial(REFERENCE_EVALUATOR, onnx.__version__, None, f"{type(failure).__name__}: {str(failure)[:300]}")
    return Trial(REFERENCE_EVALUATOR, onnx.__version__, error)
