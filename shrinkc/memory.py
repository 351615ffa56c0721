"""What runs over one model and one set of samples have in common: evidence, gradients and scores are worked out once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from typing import TypeVar

from shrinkc.evidence.data import Data
from shrinkc.opening import Opened
from shrinkc.recipe import Recipe

Found = TypeVar("Found")


class Memory:
    """Keeps what was worked out, by everything that it depends on; nobody may change what it hands out."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, object] = {}

    def recall(self, key: Hashable, make: Callable[[], Found]) -> Found:
        """What is kept under a key, worked out if there is nothing yet."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]  # type: ignore[return-value]  # a key holds what its own ``make`` gave


def key_of(opened: Opened, recipe: Recipe, samples: Data | None) -> Hashable:
    """Everything that what data tells about a model depends on, the criterion and the budget aside.

    Names of groups and tensors are all that ties such findings to a graph, so they fit every opening of the same file.
    """
    grouping = (recipe.prune, recipe.independent_groups, recipe.exclude, recipe.include, recipe.optimize)
    return (opened.sha256, tuple(sorted(opened.shapes.items())), opened.merged, grouping, recipe.seed, _digest(samples))


def _digest(samples: Data | None) -> str:
    """Of names and values of samples, labels included."""
    digest = hashlib.sha256()
    for name, array in ({} if samples is None else samples.inputs).items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    if samples is not None and samples.labels is not None:
        digest.update(samples.labels.tobytes())
    return digest.hexdigest()
