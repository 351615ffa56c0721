"""Seconds of layers, whole and factorised: a chain of factors is a chain of layers, and each is priced as any other is.

Pairs of layers that were folded are the same layers, narrower.  Recurrent layers go by their multiply-accumulates and tables of
embeddings by what they move, as in :mod:`shrinkc.latency.model`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from shrinkc.evidence.sites import Site
from shrinkc.factorable import SLIDING, Candidate
from shrinkc.head_folding import PairCandidate
from shrinkc.latency.layers import CHANNELS, Layer, LayerSpec, layer_of
from shrinkc.latency.model import FLOAT_BYTES, LayerTimes
from shrinkc.latency.roofline import output_size
from shrinkc.shapes import Shadow
from shrinkc.stages import RECURRENT, Stage

Widths = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """One node of a chain but for its widths.

    Attributes
    ----------
    spec : LayerSpec or None
        As a table knows it; None where tables know no such node.
    rows : int
        Positions at which it runs.
    moves : bool
        It only fetches what it gives, and multiplies nothing.
    """

    spec: LayerSpec | None
    rows: int
    moves: bool = False


class FactoredTimes:
    """Seconds of candidates, whole and at any rank.

    Parameters
    ----------
    shadow : Shadow
        Of the model.
    times : LayerTimes
        Where seconds of layers come from.
    factor : float
        What they are multiplied by, see :meth:`shrinkc.latency.model.Forecast.scaled`.
    """

    def __init__(self, shadow: Shadow, times: LayerTimes, factor: float = 1.0) -> None:
        self._shadow, self._times, self._factor = shadow, times, factor
        self._chains: dict[tuple[str, str], tuple[Piece, ...]] = {}
        self._whole: dict[str, Piece] = {}
        self._known: dict[tuple[Piece, Widths], float] = {}

    def whole(self, candidate: Candidate, *kept: int | None) -> float:
        """Seconds of a layer as it is, with all or so many of its channels; those of a pair's layers and product."""
        if isinstance(candidate, PairCandidate):
            return self._of_pair(candidate, candidate.full_rank, kept)
        return self._seconds(self._piece(candidate.site), _ends(candidate, kept))

    def factored(self, candidate: Candidate, rank: int, *kept: int | None) -> float:
        """Seconds of what takes its place at a rank."""
        if isinstance(candidate, PairCandidate):
            return self._of_pair(candidate, rank, kept)
        inputs, outputs = _ends(candidate, kept)
        pairs = itertools.pairwise((inputs, *candidate.inner_widths(rank), outputs))
        return sum(self._seconds(piece, own) for piece, own in zip(self._pieces(candidate), pairs, strict=True))

    def _of_pair(self, candidate: PairCandidate, rank: int, kept: tuple[int | None, ...]) -> float:
        layers = candidate.layers_at(rank, *kept)
        products = self._factor * self._times.rates.per_mac * candidate.product_macs(rank, *kept)
        return products + sum(self._seconds(self._piece(site), widths) for site, widths in layers)

    def _piece(self, site: Site) -> Piece:
        if site.name not in self._whole:
            self._whole[site.name] = whole_piece(site, self._shadow)
        return self._whole[site.name]

    def _pieces(self, candidate: Candidate) -> tuple[Piece, ...]:
        key = (candidate.name, candidate.form.name)
        if key not in self._chains:
            self._chains[key] = tuple(chain_pieces(candidate, self._shadow))
        return self._chains[key]

    def _seconds(self, piece: Piece, widths: Widths) -> float:
        if (piece, widths) not in self._known:
            self._known[piece, widths] = self._factor * self._priced(piece, widths)
        return self._known[piece, widths]

    def _priced(self, piece: Piece, widths: Widths) -> float:
        if piece.spec is not None:
            return self._times.seconds(piece.spec, widths)
        if piece.moves:
            return self._times.rates.per_byte * FLOAT_BYTES * piece.rows * widths[1]
        return self._times.rates.per_mac * piece.rows * widths[0] * widths[1]


def _ends(candidate: Candidate, kept: tuple[int | None, ...]) -> tuple[int, int]:
    """Channels that a layer reads and gives."""
    inputs, outputs = kept or (None, None)
    return inputs or candidate.site.inputs, outputs or candidate.site.outputs


def chain_pieces(candidate: Candidate, shadow: Shadow) -> Iterator[Piece]:
    """Nodes of a candidate's chain; they are the same at every rank, but for their widths."""
    site, shape = candidate.site, shadow.shape(candidate.site.data) or ()
    whole = layer_of(site.node, 1, shadow)
    for stage in candidate.chain(candidate.step).stages:
        piece = _piece(stage, shape, None if whole is None else whole.spec)
        yield piece
        shape = _shape_behind(piece, stage, shape)


def _piece(stage: Stage, shape: tuple[int, ...], whole: LayerSpec | None) -> Piece:
    if stage.op_type == "Gather":
        return Piece(None, math.prod(shape), moves=True)
    if stage.op_type in RECURRENT:
        return Piece(None, math.prod(shape[:-1]))
    attributes = tuple(sorted((name, value) for name, value in stage.attributes.items() if name != "group"))
    has_bias = stage.bias is not None if whole is None else whole.has_bias
    if stage.op_type != "Conv":
        spec = LayerSpec(stage.op_type, (*shape[:-1], CHANNELS), (), 1, 1, has_bias, attributes)
        return Piece(_as_whole(spec, whole), math.prod(shape[:-1]))
    groups = int(stage.attributes.get("group", 1))  # type: ignore[arg-type]
    spec = LayerSpec("Conv", (shape[0], CHANNELS, *shape[2:]), stage.weight.shape[2:], groups, 1, has_bias, attributes)
    return Piece(_as_whole(spec, whole), shape[0] * math.prod(output_size(spec)))


def _as_whole(spec: LayerSpec, whole: LayerSpec | None) -> LayerSpec:
    """The layer's own spec where a stage differs from it in nothing that takes time: a table knows that one already."""
    if whole is None or _sliding(spec) != _sliding(whole):
        return spec
    is_same = replace(spec, attributes=whole.attributes, has_bias=whole.has_bias) == whole
    return whole if is_same else spec


def _sliding(spec: LayerSpec) -> dict[str, object]:
    return {name: value for name, value in spec.attributes if name in (*SLIDING, "transB") and value}


def _shape_behind(piece: Piece, stage: Stage, shape: tuple[int, ...]) -> tuple[int, ...]:
    if stage.op_type == "Gather":
        return (*shape, CHANNELS)
    if piece.spec is None or stage.op_type != "Conv":
        return (*shape[:-1], CHANNELS)
    return (shape[0], CHANNELS, *output_size(piece.spec))


def whole_piece(site: Site, shadow: Shadow) -> Piece:
    """A layer as it is."""
    layer, shape = layer_of(site.node, 1, shadow), shadow.shape(site.data) or ()
    if layer is not None:
        return Piece(layer.spec, math.prod(shape[:-1]))
    if site.node.op_type == "Gather":
        return Piece(None, math.prod(shape), moves=True)
    rows = math.prod(shape[:-1]) if site.windows is None else math.prod(shadow.shape(site.output) or ()) // site.outputs
    return Piece(None, rows * site.taps)


def layers_of_chain(candidate: Candidate, shadow: Shadow) -> list[Layer]:
    """Stages of a candidate that a table has to know to price it, at its largest rank; a pair is layers of the model."""
    if isinstance(candidate, PairCandidate):
        return []
    site = candidate.site
    widths = (site.inputs, *candidate.inner_widths(max(candidate.step, candidate.largest_rank)), site.outputs)
    pieces = zip(chain_pieces(candidate, shadow), itertools.pairwise(widths), strict=True)
    return [Layer(site.node, piece.spec, own) for piece, own in pieces if piece.spec is not None]
