"""What holds for every criterion, on whole models: evidence is gathered by running them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from models.builder import Net
from models.readings import group_of
from models.topologies import TOPOLOGIES

from shrinkc import registry
from shrinkc.analysis.groups import Analysis
from shrinkc.api import Evidence
from shrinkc.evidence.data import Data
from shrinkc.evidence.gathering import gather
from shrinkc.evidence.producers import producers
from shrinkc.planning import weights_of

Analyse = Callable[..., Analysis]

CRITERIA = registry.names("criteria")
DEAD, TWINS, WIDTH = 2, (4, 7), 10
BLIND_TO_DEAD = {"random", "geometric-median"}  # the latter looks for filters in the middle of the others
SEES_TWINS = {"obs", "lasso", "thinet-b", "spline"}
"""The others score channels one by one, or (ThiNet A) do not refit what is left."""


def evidence_for(analysis: Analysis, shape: Sequence[int], gradients: dict[str, np.ndarray]) -> Evidence:
    data = Data({"x": np.random.default_rng(0).standard_normal((96, *shape)).astype(np.float32)}, None, "drawn")
    found = gather(analysis, data, list(data.batches(32)), registry.load("runtimes", "onnxruntime-cpu")())
    return Evidence(found.consumers, found.n_samples, found.source, gradients=gradients)


def gradients_for(analysis: Analysis) -> dict[str, np.ndarray]:
    random, read = np.random.default_rng(1), weights_of(analysis)
    tensors = {member.use.tensor for group in analysis.groups for member in producers(group)}
    return {tensor.name: random.standard_normal((3, *read(tensor).shape)) for tensor in tensors}


def twins(permutation: np.ndarray) -> tuple[Net, dict[str, np.ndarray]]:
    """A layer whose channels are laid out in an order, with one dead channel and two that are the same, and gradients."""
    random = np.random.default_rng(0)
    first = random.standard_normal((WIDTH, 3, 3, 3)).astype(np.float32)
    vectors = random.uniform(0.5, 1.5, (4, WIDTH)).astype(np.float32)
    second = random.standard_normal((6, WIDTH, 3, 3)).astype(np.float32)
    gradient = random.standard_normal((4, *first.shape))
    first[TWINS[1]], vectors[:, TWINS[1]], second[:, TWINS[1]] = first[TWINS[0]], vectors[:, TWINS[0]], second[:, TWINS[0]]
    first[DEAD], vectors[:3, DEAD] = 0, 0
    net = Net()
    y = net.op("Conv", net.input("x", ["n", 3, 8, 8]), net.const(first[permutation], "first"))
    y = net.relu(net.op("BatchNormalization", y, *[net.const(vector[permutation]) for vector in vectors]))
    net.output(net.op("Conv", y, net.const(second[:, permutation])))
    return net, {"first": gradient[:, permutation]}


def twin_scores(name: str, permutation: np.ndarray, analysed: Analyse) -> np.ndarray:
    net, gradients = twins(permutation)
    analysis = analysed(net)
    evidence = evidence_for(analysis, (3, 8, 8), gradients)
    scores: np.ndarray = registry.load("criteria", name)().scores(analysis.groups[0], weights_of(analysis), evidence)
    return scores


@pytest.mark.parametrize("name", [name for name in CRITERIA if name not in BLIND_TO_DEAD])
def test_a_dead_channel_goes_first(name: str, analysed: Analyse) -> None:
    scores = twin_scores(name, np.arange(WIDTH), analysed)
    assert np.argmin(scores) == DEAD
    if name not in ("l1", "l2"):  # which count the weights that read it, too
        assert scores[DEAD] < 1e-7 * scores.max()
    if name in SEES_TWINS:
        ranked = np.argsort(scores)
        assert ranked[1] in TWINS
        assert scores[ranked[1]] < 0.05 * scores[ranked[2]]  # a ridge, not nothing, in the case of OBS


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "random"])
def test_scores_move_with_their_channels(name: str, analysed: Analyse) -> None:
    permutation = np.random.default_rng(5).permutation(WIDTH)
    before = twin_scores(name, np.arange(WIDTH), analysed)
    after = np.empty(WIDTH)
    after[permutation] = twin_scores(name, permutation, analysed)
    for scores in (before, after):  # which of two twins goes first is nobody's business
        scores[list(TWINS)] = np.sort(scores[list(TWINS)])
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-7 * before.max())


NETS = [
    "identity_shortcut",
    "cascaded_concat",
    "split_and_merge",
    "depthwise_separable",
    "flatten_to_linear",
    "grouped",
    "weights_in_constant_nodes",
]


@pytest.mark.parametrize("topology", NETS)
def test_every_criterion_scores_every_group_of_a_model_that_was_run(topology: str, analysed: Analyse) -> None:
    net = TOPOLOGIES[topology]()
    analysis, model = analysed(net), net.model()
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    evidence = evidence_for(analysis, shape, gradients_for(analysis))
    assert all(evidence.consumers[group.name] for group in analysis.groups)
    for name in CRITERIA:
        criterion = registry.load("criteria", name)()
        for group in analysis.groups:
            scores = criterion.scores(group, weights_of(analysis), evidence)
            assert scores.shape == (group.width,), name
            assert np.isfinite(scores).all(), name
            assert (scores >= 0).all(), name
            again = registry.load("criteria", name)().scores(group, weights_of(analysis), evidence)
            np.testing.assert_array_equal(scores, again)


@pytest.mark.parametrize("name", [name for name in CRITERIA if registry.load("criteria", name)().needs_evidence])
def test_a_group_that_no_layer_was_seen_to_read_is_neutral(name: str) -> None:
    for evidence in (Evidence(), Evidence({"group": ()})):
        scores = registry.load("criteria", name)().scores(group_of(4), None, evidence)
        np.testing.assert_array_equal(scores, np.ones(4))
