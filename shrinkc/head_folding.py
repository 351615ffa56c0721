"""Pairs of layers that meet inside attention heads, at a lower rank: fewer dims in every head, and no new layer.

With ``q`` and ``k`` the dims of a head, ``q^T k`` becomes ``q^T C k`` with ``C = A B^T`` of rank ``r``; ``A^T`` and ``B^T``
are folded into the layers that make ``q`` and ``k``.  What reads ``z`` by ``W z`` reads ``W C z`` likewise.  With ``L_q L_q^T``
and ``L_k L_k^T`` the second moments of both and ``U S V^T`` the singular values of ``L_q^T L_k``, the least error over all
queries and keys is that of ``A = L_k V S^-1/2`` and ``B = L_q U S^-1/2``, cut after ``r`` columns: ``S_i^2`` summed over
``i > r`` (Eckart, Young 1936).  Nothing is inverted but singular values that are kept, so moments may be singular.  Without
data the inputs count as uncorrelated and of one size, the bias as an input that is always 1: these are the singular values of
``W_Q^T W_K`` then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.analysis.groups import Analysis, BoolArray, analyse
from shrinkc.analysis.kinds import Kind
from shrinkc.api import FloatArray, Moments, RuntimeAdapter
from shrinkc.evidence.head_pairs import HeadPair, Side, pairs_in
from shrinkc.evidence.patches import Positions, rows
from shrinkc.evidence.responses import Batches, Response, needed_values, positions_of, response_sampling, responses
from shrinkc.evidence.sites import Site
from shrinkc.evidence.walking import Walk
from shrinkc.factorable import Candidate, Found, JointForm, Scope, Whole, linear_layer
from shrinkc.factors import Chain, Factored, Sizes, Work, root_of
from shrinkc.shapes import Shadow
from shrinkc.surgery import remove_channels

NEGLIGIBLE = 1e-6
"""Singular value, as a share of the head's largest, below which a dim is left empty: it would be rounding, blown up."""


KINDS = frozenset(Kind) - {Kind.STREAM}
"""Of channels that a fold may remove: dims of a single head count as ordinary channels."""


class PairFactors:
    """A pair decomposed once, for every rank.

    Parameters
    ----------
    pair : HeadPair
    seen : mapping of layer name to Response
        Moments of what the layers give and read; layers that are missing are taken by their weights.
    """

    def __init__(self, pair: HeadPair, seen: Mapping[str, Response]) -> None:
        self._pair = pair
        self._left, self._right = pair.left.vectors(), pair.right.vectors()
        self.mean: FloatArray | None = None
        """Of what is read, where it is known and a bias takes up its change: ``(heads, dims)``."""

        moments = seen[pair.left.site.name].inputs if pair.is_read and pair.left.site.name in seen else None
        self._between = self._of_read(moments) if pair.is_read else None
        left = np.einsum("hmdi,hmei->hde", self._left, self._left) if pair.is_read else _moment(pair.left, self._left, seen)
        right = _moment(pair.right, self._right, seen) if self._between is None else np.einsum("hdhe->hde", self._between)
        solved = [_aligned(*both) for both in zip(left, right, strict=True)]
        self.values: FloatArray = np.stack([values for values, _, _ in solved])
        """Singular values of every head, ``(heads, dims)``."""

        self.left_map: FloatArray = np.stack([own for _, own, _ in solved])
        self.right_map: FloatArray = np.stack([own for _, _, own in solved])

    def _of_read(self, moments: Moments | None) -> FloatArray:
        """Second moment of all that is read, ``(heads, dims, heads, dims)``."""
        pair = self._pair
        if moments is None:
            rows = self._right[:, 0]
            plain: FloatArray = np.einsum("hdi,gei->hdge", rows, rows)
            return plain
        places = pair.left.places[:, 0]
        can_shift = pair.left.site.intercept is not None
        second = (moments.covariance() if can_shift else moments.gram)[0]
        self.mean = moments.mean[0][places] if can_shift else None
        found: FloatArray = second[places[:, :, None, None], places[None, None]]
        return found

    @cached_property
    def errors(self) -> FloatArray:
        """Share of what the pair gives that is lost, by rank; ``(dims + 1,)``.

        Of scores heads are apart, and squares of singular values add up; what is read sums over the heads, so their errors
        may meet: the sum over ``i, j > r`` of ``(A^T W^T W A)_ij (B^T S B)_ij``, over all pairs of heads.
        """
        if self._between is None:
            by_dim = np.square(self.values).sum(0)
            tails = np.append(by_dim[::-1].cumsum()[::-1], 0.0)
        else:
            read = np.einsum("hde,hdo->heo", self.left_map, self._left[:, 0])
            inside = np.einsum("hde,hdgf,gfk->hegk", self.right_map, self._between, self.right_map, optimize=True)
            products = np.einsum("heo,gko,hegk->ek", read, read, inside, optimize=True)
            blocks = products[::-1, ::-1].cumsum(0).cumsum(1)
            tails = np.append(np.maximum(np.diagonal(blocks)[::-1], 0.0), 0.0)
        share: FloatArray = tails / (tails[0] or 1.0)
        return share

    def fold(self, pair: HeadPair, rank: int | None = None) -> None:
        """Fold the maps of full rank into the layers of a pair, of any copy of the model; the dim to keep first comes first.

        With a ``rank`` the dims behind it are zero.
        """
        for side, maps in ((pair.left, self.left_map), (pair.right, self.right_map)):
            _turn(side, maps if rank is None else maps * (np.arange(maps.shape[-1]) < rank))

    def shift(self, rank: int) -> FloatArray | None:
        """What the bias of the layer that reads gets more, ``(outputs,)``, so that its mean stays."""
        if self.mean is None:
            return None
        kept = np.einsum("hde,hfe->hdf", self.left_map[..., :rank], self.right_map[..., :rank])
        lost = self.mean - np.einsum("hdf,hf->hd", kept, self.mean)
        change: FloatArray = np.einsum("hdo,hd->o", self._left[:, 0], lost)
        return change


def _moment(side: Side, vectors: FloatArray, seen: Mapping[str, Response]) -> FloatArray:
    """Second moment of the dims of every head, summed over its members: ``(heads, dims, dims)``."""
    response = seen.get(side.site.name)
    if response is None or response.outputs is None:
        plain: FloatArray = np.einsum("hmdi,hmei->hde", vectors, vectors)
        return plain
    given, added = response.outputs, side.bias() - side.site.bias().reshape(-1)
    mean = given.mean[0]
    second = given.gram[0] + np.outer(mean, added) + np.outer(added, mean) + np.outer(added, added)
    found: FloatArray = second[side.places[..., :, None], side.places[..., None, :]].sum(1)
    return found


def _aligned(left: FloatArray, right: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Singular values and the maps ``A`` and ``B`` of full rank, for the second moments of both sides."""
    roots = root_of(left), root_of(right)
    first, values, second = np.linalg.svd(roots[0].T @ roots[1])
    is_kept = values > NEGLIGIBLE * max(values[0], 1e-300)
    scale = np.where(is_kept, 1 / np.sqrt(np.where(is_kept, values, 1.0)), 0.0)
    return values, roots[1] @ second.T * scale, roots[0] @ first * scale


def _turn(side: Side, maps: FloatArray) -> None:
    """Give every head other dims, ``map^T @ dims``."""
    site = side.site
    matrix, bias = site.matrix()[0], side.bias()
    turned = bias.copy()
    for places, own in zip(side.places, maps, strict=True):
        for member in places:
            if side.reads:
                matrix[:, member] = matrix[:, member] @ own
            else:
                matrix[member], turned[member] = own.T @ matrix[member], own.T @ bias[member]
    change = np.zeros_like(bias) if side.reads else turned - bias
    site.write(matrix[None], site.bias() + change[None])


class JointFactors:
    """Pairs that have one rank, decomposed.

    Parameters
    ----------
    parts : sequence of PairFactors
    """

    def __init__(self, parts: Sequence[PairFactors]) -> None:
        self.errors: FloatArray = np.mean([part.errors for part in parts], axis=0)
        """Mean of the shares that are lost, by rank; ``(dims + 1,)``."""

    def error(self, rank: int) -> float:
        """See :class:`shrinkc.factors.Factored`."""
        return float(self.errors[rank])

    def chain(self, rank: int) -> Chain:
        """There is none: the layers stay what they are."""
        raise ValueError("no chain takes the place of a pair of layers")


@dataclass(frozen=True, eq=False)
class PairCandidate(Candidate):
    """A pair as a candidate: its rank is the dims of a head, and every rank below the present one pays.

    Attributes
    ----------
    pairs : tuple of HeadPair
        One, or several with a layer in common: packed queries, keys and values are cut alike.
    seen : mapping of layer name to Response
    shadow : Shadow
    """

    pairs: tuple[HeadPair, ...]
    seen: Mapping[str, Response]
    shadow: Shadow

    @property
    def name(self) -> str:
        """Of the first product."""
        return self.pairs[0].name

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(dict.fromkeys(side.site.name for pair in self.pairs for side in (pair.left, pair.right)))

    @cached_property
    def parts(self) -> tuple[PairFactors, ...]:
        """Every pair decomposed."""
        return tuple(PairFactors(pair, self.seen) for pair in self.pairs)

    def paired(self) -> list[tuple[HeadPair, PairFactors]]:
        """Every pair with its decomposition."""
        return list(zip(self.pairs, self.parts, strict=True))

    @cached_property
    def factored(self) -> Factored:
        """See :class:`Candidate`."""
        return JointFactors(self.parts)

    @cached_property
    def full_rank(self) -> int:
        """Dims of a head."""
        return self.pairs[0].dims

    @cached_property
    def sides(self) -> tuple[Side, ...]:
        """Every layer once, as one of the sides that it is."""
        return tuple({side.site.name: side for pair in self.pairs for side in (pair.left, pair.right)}.values())

    def dense(self, *kept: int | None) -> Work:
        """Cost of the layers and of the products, as far as dims of heads matter.

        ``kept`` counts heads that are left, and channels on the other side of every one of :attr:`sides`; None for all.
        """
        return self.work(self.full_rank, *kept)

    def work(self, rank: int, *kept: int | None) -> Work:
        """Cost with so many dims in every head."""
        parts = [self._of(side, rank, kept) for pair in self.pairs for side in (pair.left, pair.right)]
        macs = self.product_macs(rank, *kept) + sum(part.macs for part in parts)
        return Work(macs, sum(part.parameters for part in parts))

    def product_macs(self, rank: int, *kept: int | None) -> int:
        """Multiply-accumulates of the products in which the layers meet."""
        return sum(self._left(math.prod(self._product(pair)) * rank, kept) for pair in self.pairs)

    def layers_at(self, rank: int, *kept: int | None) -> list[tuple[Site, tuple[int, int]]]:
        """Every layer, and how many channels it reads and gives with so many dims in every head."""
        return [(side.site, self._widths(side, rank, kept)) for side in self.sides]

    def _widths(self, side: Side, rank: int, kept: tuple[int | None, ...]) -> tuple[int, int]:
        own = [one for pair in self.pairs for one in (pair.left, pair.right) if one.site.name == side.site.name]
        gone = sum(one.places[..., rank:].size for one in own)
        inner = self._left((side.site.inputs if side.reads else side.site.outputs) - gone, kept)
        outer = self._outer(side, kept)
        return (inner, outer) if side.reads else (outer, inner)

    def _left(self, amount: int, kept: tuple[int | None, ...]) -> int:
        """What is left of an amount that all heads together have."""
        heads = kept[0] if kept else None
        return amount if heads is None else amount * heads // self.pairs[0].heads

    def _outer(self, side: Side, kept: tuple[int | None, ...]) -> int:
        """Channels on the other side of a layer."""
        number = next(place for place, one in enumerate(self.sides) if one.site.name == side.site.name)
        left = kept[1 + number] if kept else None
        return (side.site.outputs if side.reads else side.site.inputs) if left is None else left

    def _product(self, pair: HeadPair) -> tuple[int, ...]:
        """Shape of what is multiplied or made by as many numbers as a head has dims."""
        value = pair.node.inputs[0] if pair.is_read else pair.node.outputs[0]
        return self.shadow.shape(value) or ()

    def _of(self, side: Side, rank: int, kept: tuple[int | None, ...]) -> Work:
        site, dims = side.site, self._left(side.places.shape[0] * side.places.shape[1] * rank, kept)
        positions = math.prod(self.shadow.shape(site.output) or ()) // site.outputs
        elements = dims * self._outer(side, kept)
        has_bias = not side.reads and site.intercept is not None
        return Work(positions * elements, elements + dims * has_bias)

    def pays(self, rank: int, *kept: int | None) -> bool:
        """Whether a rank is below the present one."""
        return rank < self.full_rank


def pair_candidates(
    form: JointForm, model: ir.Model, shadow: Shadow, scope: Scope, batches: Batches, runtime: RuntimeAdapter, seed: int
) -> Found:
    """Every pair of a model whose dims can be removed, looked at on data if there are any.

    Parameters
    ----------
    form : JointForm
        That is told of in reports.
    model : ir.Model
    shadow : Shadow
        Of the model.
    scope : Scope
    batches : sequence of mapping of input name to ndarray
        Empty without data.
    runtime : RuntimeAdapter
    seed : int
        Of the sampled positions.
    """
    pairs = pairs_in(model, shadow)
    wanted = [pair for pair in pairs.found if _admits(scope, pair)]
    analysis = _analysed(model, shadow.input_shapes) if wanted else None
    free = [pair for pair in wanted if analysis is not None and _classes(analysis, pair) is not None]
    whole = [Whole(name, reason) for name, reason in pairs.refused.items() if scope.only is None]
    whole += [Whole(pair.name, "dims of its heads cannot be removed") for pair in wanted if pair not in free]
    seen = _seen(model, free, batches, runtime, seed)
    found = []
    for pairs_of_one in _tied(free):
        first = pairs_of_one[0]
        if scope.only is not None and first.name not in scope.only:
            continue
        if len({(pair.dims, pair.heads) for pair in pairs_of_one}) > 1:
            whole.append(Whole(first.name, "its layer also makes heads of other sizes"))
            continue
        step = scope.round_to // math.gcd(scope.round_to, first.heads)
        site = first.right.site
        layer, sizes = linear_layer(site, None), Sizes(1, (), ())
        candidate = PairCandidate(site, form, layer, sizes, step, scope.factorization.basis, pairs_of_one, seen, shadow)
        if candidate.largest_rank:
            found.append(candidate)
        else:
            whole.append(Whole(first.name, f"its {first.dims} dims a head are no more than the channel multiple"))
    return Found(tuple(found), tuple(whole))


def _tied(pairs: Sequence[HeadPair]) -> list[tuple[HeadPair, ...]]:
    """Pairs with a layer in common together, in the order of the graph."""
    groups: list[tuple[set[str], list[HeadPair]]] = []
    for pair in pairs:
        layers = {pair.left.site.name, pair.right.site.name}
        joined = [group for group in groups if group[0] & layers]
        rest = [group for group in groups if not group[0] & layers]
        names = layers.union(*(group[0] for group in joined))
        groups = [*rest, (names, [*(own for group in joined for own in group[1]), pair])]
    return [tuple(own) for _, own in groups]


def _admits(scope: Scope, pair: HeadPair) -> bool:
    """Whether the patterns let a pair be changed; of pairs with a layer in common a plan names one only."""
    nodes = (pair.node, pair.left.site.node, pair.right.site.node)
    return all(replace(scope, only=None).admits(node) for node in nodes)


def _seen(
    model: ir.Model, pairs: Sequence[HeadPair], batches: Batches, runtime: RuntimeAdapter, seed: int
) -> dict[str, Response]:
    if not batches or not pairs:
        return {}
    sides = [side for pair in pairs for side in (pair.left, pair.right) if side.reads or not pair.is_read]
    sites: dict[str, Site] = {side.site.name: side.site for side in sides}
    order = {output: number for number, node in enumerate(model.graph) for output in node.outputs}
    ordered = sorted(sites.values(), key=lambda site: order[site.output])
    readers = {side.site.name for side in sides if side.reads}
    walk = Walk(model, batches, runtime, needed_values(ordered))
    n_samples = sum(len(next(iter(batch.values()))) for batch in batches)
    return responses(walk, ordered, {site.name: site.name in readers for site in ordered}, n_samples, seed)


def _analysed(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> Analysis:
    return analyse(model, dict(shapes), registry.operator_rules(), kinds=KINDS)


def _classes(analysis: Analysis, pair: HeadPair) -> np.ndarray | None:
    """Class of every dim, ``(any, dims)``; None where some cannot go."""
    classes = analysis.classes_of(pair.dims_of)
    free = np.concatenate([group.classes for group in analysis.groups] or [np.empty(0, np.int64)])
    if classes is None or classes.shape[-1] != pair.dims or not np.isin(classes, free).all():
        return None
    return classes.reshape(-1, pair.dims)


@dataclass(frozen=True, eq=False)
class Folded:
    """A model with pairs of a lower rank.

    Attributes
    ----------
    turned : ir.Model
        With the maps of full rank folded in: it gives what the model before did.
    analysis : Analysis
        Of that.
    is_kept : ndarray of bool
        What stays of its classes.
    model : ir.Model
        Without the dims that go.
    """

    turned: ir.Model
    analysis: Analysis
    is_kept: BoolArray
    model: ir.Model


def folded(model: ir.Model, shapes: Mapping[str, tuple[int, ...]], ranks: Mapping[str, tuple[PairCandidate, int]]) -> Folded:
    """Fold pairs of a copy of a model to lower ranks.

    Parameters
    ----------
    model : ir.Model
    shapes : mapping of input name to shape
    ranks : mapping of pair name to candidate and rank
    """
    turned = model.clone()
    pairs = {pair.name: pair for pair in pairs_in(turned, Shadow.of(turned, dict(shapes))).found}
    for candidate, _ in ranks.values():
        for pair, factors in zip(candidate.pairs, candidate.parts, strict=True):
            factors.fold(pairs[pair.name])
    analysis = _analysed(turned, shapes)
    is_kept = np.ones(analysis.n_classes + 1, bool)
    for candidate, rank in ranks.values():
        for pair in candidate.pairs:
            classes = _classes(analysis, pairs[pair.name])
            if classes is None:
                raise ValueError(f"dims of {pair.name} cannot be removed any more")
            is_kept[classes[:, rank:]] = False
    return Folded(turned, analysis, is_kept, remove_channels(analysis, is_kept, dict(shapes)))


def with_means(fold: Folded, ranks: Mapping[str, tuple[PairCandidate, int]]) -> ir.Model:
    """The folded model with biases behind pairs that take up what their inputs' means lost: data say so, not the fold."""
    model = fold.model.clone()
    for candidate, rank in ranks.values():
        _add_means(model, candidate.paired(), rank)
    return model


def _add_means(model: ir.Model, parts: Sequence[tuple[HeadPair, PairFactors]], rank: int) -> None:
    stored = {value.name: value for value in model.graph.initializers.values()}
    stored |= {output.name: output for node in model.graph if node.op_type == "Constant" for output in node.outputs}
    for pair, factors in parts:
        intercept, change = pair.left.site.intercept, factors.shift(rank)
        if intercept is not None and change is not None:
            _add(stored[intercept.tensor.name], intercept.sign * change / intercept.factor)


def _add(value: ir.Value, change: FloatArray) -> None:
    old = shrinkc_ir.stored_array(value)
    shrinkc_ir.replace_tensor(value, (old + change.reshape(old.shape)).astype(old.dtype))


def zeroed(
    model: ir.Model, shapes: Mapping[str, tuple[int, ...]], parts: Sequence[tuple[HeadPair, PairFactors]], rank: int
) -> ir.Model:
    """A copy of a model that gives what it gives with some pairs folded: the dims that go are there, and zero."""
    copy = model.clone()
    pairs = {pair.name: pair for pair in pairs_in(copy, Shadow.of(copy, dict(shapes))).found}
    for pair, factors in parts:
        factors.fold(pairs[pair.name], rank)
    _add_means(copy, parts, rank)
    return copy


def lowered(model: ir.Model, shapes: Mapping[str, tuple[int, ...]], candidate: PairCandidate, rank: int) -> ir.Model:
    """A copy of a model with one candidate folded."""
    ranks = {candidate.name: (candidate, rank)}
    return with_means(folded(model, shapes, ranks), ranks)


def measured_error(
    model: ir.Model,
    shapes: Mapping[str, tuple[int, ...]],
    candidate: PairCandidate,
    rank: int,
    batches: Batches,
    runtime: RuntimeAdapter,
    seed: int = 0,
) -> float:
    """Error found when what pairs give is run in both models: of all queries with all keys, of layers around their means.

    On the rows that the evidence saw; without data, that of the products of the stored weights.
    """
    after = lowered(model, shapes, candidate, rank)
    if not batches:
        return float(np.mean([_weights_error(pair, _same(after, shapes, pair)) for pair in candidate.pairs]))
    found = []
    for pair, factors in candidate.paired():
        # Weights of other scores would show behind values, too: where both go together the values' own part is looked at.
        own = zeroed(model, shapes, [(pair, factors)], rank) if pair.is_read and len(candidate.pairs) > 1 else after
        look = _read_error if pair.is_read else _scores_error
        found.append(look((pair, _same(own, shapes, pair)), _Rows((model, own), batches, runtime, seed)))
    return float(np.mean(found))


def _same(model: ir.Model, shapes: Mapping[str, tuple[int, ...]], pair: HeadPair) -> HeadPair:
    return next(own for own in pairs_in(model, Shadow.of(model, dict(shapes))).found if own.name == pair.name)


def _weights_error(before: HeadPair, after: HeadPair) -> float:
    """Share of the squared products of the weights that is lost; what is read sums over the heads."""
    wanted, given = (np.einsum("hmdi,hndj->hmnij", pair.left.vectors(), pair.right.vectors()) for pair in (before, after))
    if before.is_read:
        wanted, given = wanted.sum(0), given.sum(0)
    return float(np.square(wanted - given).sum() / (np.square(wanted).sum() or 1.0))


def _scores_error(both: tuple[HeadPair, HeadPair], seen: _Rows) -> float:
    """Share of the squared scores that is lost, over all queries and keys of all samples.

    ``q^T k - q'^T k'`` is ``z_q^T S z_k`` with ``z`` the dims before and after, and ``S`` the signs of both; over all pairs of
    rows its mean square is ``tr(G_q S G_k S)`` with ``G`` their second moments.
    """
    sides = [(both[0].left, both[1].left), (both[0].right, both[1].right)]
    grams = [_grams([rows[:, side.places] for rows, side in zip(seen.of(own), own, strict=True)]) for own in sides]
    dims = both[0].dims
    signs = np.where(np.arange(grams[0].shape[-1]) < dims, 1.0, -1.0)
    queries, keys = grams
    lost = np.einsum("hde,hde,d,e->", queries, keys, signs, signs)
    energy = np.einsum("hde,hde->", queries[:, :dims, :dims], keys[:, :dims, :dims])
    return float(lost / (energy or 1.0))


def _grams(dims: list[FloatArray]) -> FloatArray:
    """Second moments of dims before and after together, summed over members: ``(heads, both, both)``."""
    together = np.concatenate(dims, axis=-1)
    found: FloatArray = np.einsum("rhmd,rhme->hde", together, together, optimize=True) / len(together)
    return found


def _read_error(both: tuple[HeadPair, HeadPair], seen: _Rows) -> float:
    """Share of the variance of a layer behind heads that is lost (of its energy, where no bias takes up its mean)."""
    wanted, given = seen.of((both[0].left, both[1].left))
    centre = 0.0 if both[0].left.site.intercept is None else wanted.mean(0)
    return float(np.square(wanted - given).sum() / (np.square(wanted - centre).sum() or 1.0))


@dataclass(frozen=True, eq=False)
class _Rows:
    """What layers give in two models, on the rows that the evidence saw."""

    models: tuple[ir.Model, ir.Model]
    batches: Batches
    runtime: RuntimeAdapter
    seed: int

    def of(self, sides: tuple[Side, Side]) -> list[FloatArray]:
        """Rows of one layer before and after, biases behind it included; ``(rows, outputs)`` each."""
        site = sides[0].site
        n_samples = sum(len(next(iter(batch.values()))) for batch in self.batches)
        width = site.inputs // site.groups * site.taps if sides[0].reads else site.outputs // site.groups
        sampling = response_sampling(site, width, n_samples, self.seed)
        walks = [self._walk(model, side.site) for model, side in zip(self.models, sides, strict=True)]
        places = [
            positions_of(site, number, walks[0].value(site.data.name or "", number), sampling)
            for number in range(walks[0].n_batches)
        ]
        return [_gathered(walk, side, places) for walk, side in zip(walks, sides, strict=True)]

    def _walk(self, model: ir.Model, site: Site) -> Walk:
        walk = Walk(model, self.batches, self.runtime, needed_values([site]))
        walk.advance((walk.place(site.name) or 0) + 1)
        return walk


def _gathered(walk: Walk, side: Side, places: Sequence[Positions | None]) -> FloatArray:
    parts = [rows(side.site, walk.value(side.site.name, number), own)[0] for number, own in enumerate(places)]
    added = side.bias() - side.site.bias().reshape(-1)
    found: FloatArray = np.concatenate(parts).astype(np.float64) + added
    return found
