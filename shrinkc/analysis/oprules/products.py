"""Products of matrices and tensors: MatMul, Gemm, Einsum, of constants and of computed values alike.

Every axis of every operand has a letter, as in Einsum.  Letters of the result pass on; the others are contracted, and what
two computed operands carry there is one and the same.  Attention comes out of this: the dims of a head are contracted by
``q k'``, which leaves one label per head; the product with ``v`` ties that label to the head's rows of ``v``.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from shrinkc.analysis.attributes import input_at, int_of, string_of
from shrinkc.analysis.flow import Blocked, Flow, Role, RuleTable, Work
from shrinkc.analysis.labels import Labels, along, labelled_axes


@dataclass(frozen=True)
class Operand:
    """One input of a product and the letters of its axes."""

    index: int
    value: ir.Value
    letters: str


@dataclass(frozen=True)
class Product:
    """A product written with letters; labels are laid out along ``order``, the result's letters first."""

    flow: Flow
    node: ir.Node
    operands: tuple[Operand, ...]
    result: str

    @property
    def order(self) -> str:
        """Every letter once."""
        letters = "".join(operand.letters for operand in self.operands)
        return "".join(dict.fromkeys(self.result + letters))

    @property
    def contracted(self) -> list[int]:
        """Axes of ``order`` that are summed over."""
        return list(range(len(self.result), len(self.order)))

    def sizes(self) -> dict[str, int]:
        """Size of every letter; an operand may broadcast with size 1."""
        found: dict[str, int] = {}
        for operand in self.operands:
            for letter, size in zip(operand.letters, self.flow.shape(operand.value), strict=True):
                found[letter] = max(found.get(letter, 1), size)
        return found

    def laid_out(self, operand: Operand) -> Labels:
        """Labels of a computed operand along ``order``."""
        labels = self.flow.labels_of(operand.value)
        if len(set(operand.letters)) != len(operand.letters):
            raise Blocked("it reads a diagonal")
        present = [letter for letter in self.order if letter in operand.letters]
        labels = labels.transpose([operand.letters.index(letter) for letter in present])
        return labels.reshape([labels.shape[present.index(letter)] if letter in present else 1 for letter in self.order])


def contract(product: Product) -> Labels:
    """Note everything about a product and return the labels of its result."""
    flow, node = product.flow, product.node
    computed = [operand for operand in product.operands if not flow.is_constant(operand.value)]
    if len(computed) > 2:
        raise Blocked("a product of more than two computed operands")
    laid = [_untangled(product, operand, len(computed)) for operand in computed]
    if len(computed) == 2:
        _meet_inside(product, laid[0], laid[1])
        _meet_inside(product, laid[1], laid[0])
        _meet_outside(product, computed, laid)
    outer = None
    for labels in laid:
        outer = _combined(product, outer, _outside(product, labels))
    _note_work(product, laid, outer)
    for operand in product.operands:
        if flow.is_constant(operand.value):
            outer = _constant(product, operand, laid, outer)
    if outer is None:
        outer = flow.opaque(len(product.order), node, "the product carries no channels")
    return outer.reshape(outer.shape[: len(product.result)])


def _untangled(product: Product, operand: Operand, computed: int) -> Labels:
    """Labels of an operand; between two computed ones, contracted channels do not differ along an axis of one alone."""
    labels = product.laid_out(operand)
    if computed > 1 and _inner_axes(product, labels):
        labels = product.flow.tie_across(labels, _own_axes(product, operand))
    return labels


def _inner_axes(product: Product, labels: Labels) -> list[int]:
    return [axis for axis in labelled_axes(labels) if axis in product.contracted]


def _own_axes(product: Product, operand: Operand) -> list[int]:
    """Axes of the result that come from one operand alone."""
    others = {letter for other in product.operands if other is not operand for letter in other.letters}
    return [axis for axis, letter in enumerate(product.result) if letter in operand.letters and letter not in others]


def _meet_inside(product: Product, labels: Labels, other: Labels) -> None:
    """Tie what ``labels`` carry on the contracted axes to the other operand; what meets nothing there must stay."""
    if not _inner_axes(product, labels):
        return
    outer = {axis for axis in labelled_axes(labels) if axis not in product.contracted}
    shared = set(labelled_axes(other)) & outer
    if not _inner_axes(product, other) and not shared:
        product.flow.freeze(labels, product.node, "the other operand carries no channels on the contracted axis")
        return
    apart = [axis for axis in labelled_axes(other) if axis not in outer and axis not in product.contracted]
    product.flow.space.tie(labels, product.flow.tie_across(other, apart))


def _meet_outside(product: Product, computed: Sequence[Operand], laid: Sequence[Labels]) -> None:
    """Axes that both operands have: channels that only one of them carries there must stay."""
    sizes = [dict(zip(o.letters, product.flow.shape(o.value), strict=True)) for o in computed]
    for axis, letter in enumerate(product.result):
        if all(size.get(letter, 1) > 1 for size in sizes):
            carried = [axis in labelled_axes(labels) for labels in laid]
            for labels, carries in zip(laid, carried, strict=True):
                if carries and not all(carried):
                    product.flow.freeze(labels, product.node, "the other operand carries no channels on that axis")


def _outside(product: Product, labels: Labels) -> Labels | None:
    """What of an operand's labels the result carries."""
    carried, inner = labelled_axes(labels), _inner_axes(product, labels)
    if len(inner) == len(carried):
        return None
    return product.flow.head_rows(product.node, labels, inner) if inner else labels


def _combined(product: Product, first: Labels | None, second: Labels | None) -> Labels | None:
    """Labels of a result that both operands lend channels to."""
    if first is None or second is None:
        return second if first is None else first
    a, b = set(labelled_axes(first)), set(labelled_axes(second))
    if a == b:
        product.flow.space.tie(first, second)
        return first
    if a < b or b < a:
        heads, rows = (first, second) if a < b else (second, first)
        product.flow.link_heads(product.node, heads, rows)
        return rows
    return _common(product, first, second, a & b)


def _common(product: Product, first: Labels, second: Labels, shared: set[int]) -> Labels | None:
    """Rows and columns of the result carry different channels: only what both share, the heads, can go."""
    flow = product.flow
    if not shared:
        for labels in (first, second):
            flow.freeze(labels, product.node, "rows and columns of the product carry different channels")
        return None
    shape = [first.shape[axis] if axis in shared else 1 for axis in range(first.ndim)]
    heads = flow.space.fresh(math.prod(shape)).reshape(shape)
    for labels in (first, second):
        flow.link_heads(product.node, heads, labels, is_rigid=True)
    return heads


def _constant(product: Product, operand: Operand, laid: Sequence[Labels], outer: Labels | None) -> Labels | None:
    """A constant operand: contracted axes follow the channels, an axis of its own produces new ones."""
    flow, node = product.flow, product.node
    sizes = flow.shape(operand.value)
    axes = tuple(
        operand.letters.index(letter) if letter in operand.letters and sizes[operand.letters.index(letter)] > 1 else None
        for letter in product.order
    )
    for labels in laid:
        role = Role.CONSUMES if _inner_axes(product, labels) else Role.FOLLOWS
        flow.follow_along(node, operand.index, labels, axes, role)
    own = [place for place in _own_axes(product, operand) if axes[place] is not None]
    if not own or outer is not None:
        return outer
    axis = operand.letters.index(product.order[own[-1]])
    fresh = flow.space.fresh(sizes[axis])
    flow.attach(node, operand.index, axis, fresh, Role.PRODUCES)
    return along(fresh, own[-1], len(product.order))


def _note_work(product: Product, laid: Sequence[Labels], outer: Labels | None) -> None:
    """Of a constant the attached axes count, and what passes it by; of computed operands whatever both of them keep."""
    macs = math.prod(product.sizes().values())
    constants = [operand.index for operand in product.operands if product.flow.is_constant(operand.value)]
    if constants:
        product.flow.work.append(Work(product.node, macs, constants[0], () if outer is None else (outer,)))
    else:
        product.flow.work.append(Work(product.node, macs, None, tuple(laid)))


def matmul(flow: Flow, node: ir.Node) -> None:
    """MatMul, batched or not, either operand a vector, a matrix or a stack of them."""
    left, right = (len(flow.shape(value)) for value in node.inputs)
    batch = string.ascii_uppercase[: max(left, right, 2) - 2]
    first = "k" if left == 1 else batch[len(batch) - (left - 2) :] + "mk"
    second = "k" if right == 1 else batch[len(batch) - (right - 2) :] + "kn"
    result = batch + ("m" if left > 1 else "") + ("n" if right > 1 else "")
    _assign(flow, node, (first, second), result)


def gemm(flow: Flow, node: ir.Node) -> None:
    """Gemm; its addend follows the result if it is constant and has to be computed without channels otherwise."""
    flow.require_constant(node, 2)
    first = "km" if int_of(node, "transA", 0) else "mk"
    second = "nk" if int_of(node, "transB", 0) else "kn"
    _assign(flow, node, (first, second), "mn")
    if input_at(node, 2) is not None:
        flow.follow(node, 2, flow.labels[node.outputs[0]])


def einsum(flow: Flow, node: ir.Node) -> None:
    """Einsum with named axes, with or without an explicit result."""
    equation = string_of(node, "equation", "").replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = tuple(left.split(","))
    if "..." in equation:
        if not arrow:
            raise Blocked("the equation has an ellipsis and no result")
        terms, result = _spelt_out(flow, node, terms, result)
    elif not arrow:
        result = "".join(sorted(letter for letter in set(left) - {","} if left.count(letter) == 1))
    _assign(flow, node, terms, result)


def _spelt_out(flow: Flow, node: ir.Node, terms: Sequence[str], result: str) -> tuple[tuple[str, ...], str]:
    """Terms and result with letters of their own in place of the ellipsis, the last of them together."""
    free = "".join(letter for letter in string.ascii_letters if letter not in "".join(terms))
    counts = [
        len(flow.shape(value)) - len(term.replace("...", "")) if "..." in term else 0
        for value, term in zip(node.inputs, terms, strict=True)
    ]
    letters = free[: max(counts)]
    spelt = tuple(term.replace("...", letters[len(letters) - count :]) for term, count in zip(terms, counts, strict=True))
    return spelt, result.replace("...", letters)


def _assign(flow: Flow, node: ir.Node, terms: Sequence[str], result: str) -> None:
    values = [value for value in node.inputs[: len(terms)] if value is not None]
    operands = tuple(Operand(index, value, term) for index, (value, term) in enumerate(zip(values, terms, strict=True)))
    flow.assign(node.outputs[0], contract(Product(flow, node, operands, result)))


RULES: RuleTable = {("", "MatMul"): matmul, ("", "Gemm"): gemm, ("", "Einsum"): einsum}
