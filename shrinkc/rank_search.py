"""Bayesian search for how ranks are shared out between layers.  Needs the extra ``shrinkc[search]``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shrinkc.errors import RuntimeUnavailable

Weights = dict[str, float]
"""Share of the full rank by layer, up to a common scale."""

LEAST = 0.1
"""Smallest weight of a layer, where the largest is 1."""

DRAWN = 10
"""Trials before the surrogate says where to look; fewer of a short search."""


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes
    ----------
    weights : dict of layer name to float
        The best ones.
    losses : tuple of float
        Of every trial; the first one's weights are all alike.
    """

    weights: Weights
    losses: tuple[float, ...]


def searched(
    layers: Sequence[str],
    loss: Callable[[Weights], float],
    trials: int,
    seed: int,
    is_enough: Callable[[], bool] = lambda: False,
) -> Search:
    """Weights of layers with the least loss that some trials found; the same for the same seed.

    A Gaussian process is fitted to the losses seen, and the next trial is where its expected improvement is greatest.  The
    first trial has the same weight everywhere, so what is found is never worse than that.

    Parameters
    ----------
    layers : sequence of str
    loss : callable of weights to float
    trials : int
    seed : int
    is_enough : callable
        Asked after every trial.

    Raises
    ------
    RuntimeUnavailable
        Optuna is not installed.
    """
    optuna = _optuna()
    told = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=min(DRAWN, max(1, trials // 2)))
        study = optuna.create_study(sampler=sampler)
        study.enqueue_trial(dict.fromkeys(layers, 1.0))
        study.optimize(
            lambda trial: loss({layer: trial.suggest_float(layer, LEAST, 1.0, log=True) for layer in layers}),
            n_trials=trials,
            callbacks=[lambda study, trial: study.stop() if is_enough() else None],
        )
    finally:
        optuna.logging.set_verbosity(told)
    losses = tuple(float("inf") if trial.value is None else trial.value for trial in study.trials)
    return Search({layer: float(study.best_params[layer]) for layer in layers}, losses)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise RuntimeUnavailable(
            "searching for ranks needs optuna, which is not installed", because=str(error), hint="pip install 'shrinkc[search]'"
        ) from error
    return optuna
