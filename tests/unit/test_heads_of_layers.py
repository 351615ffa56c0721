"""Which outputs of a layer are the dims of which head, read off the entries of a value."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from models.topologies import TOPOLOGIES

from shrinkc.evidence.sites import Site, sites_of
from shrinkc.evidence.tracing import Origin
from shrinkc.shapes import Shadow, input_shapes

HEADS = np.array([[0, 1, 2], [3, 4, 5]])


def layer() -> Site:
    model = ir.from_proto(TOPOLOGIES["chain"]().model())
    return sites_of(model, Shadow.of(model, input_shapes(model)))[1]


def test_heads_are_read_off_whatever_axis_positions_lie_on() -> None:
    at_every_position = np.broadcast_to(HEADS[:, None, :], (2, 7, 3))
    found = Origin(layer(), at_every_position).heads(-2)
    assert found is not None
    np.testing.assert_array_equal(found, HEADS)
    turned = Origin(layer(), at_every_position.swapaxes(1, 2)).heads(-1)
    assert turned is not None
    np.testing.assert_array_equal(turned, HEADS)


def test_outputs_that_differ_by_position_are_no_heads() -> None:
    outputs = np.array(np.broadcast_to(HEADS[:, None, :], (2, 7, 3)))
    outputs[0, 4] = [2, 1, 0]
    assert Origin(layer(), outputs).heads(-2) is None


def test_heads_that_share_an_output_in_part_are_no_heads_and_the_same_head_twice_is_one() -> None:
    sharing = np.array([[0, 1, 2], [2, 3, 4]])
    assert Origin(layer(), sharing[:, None, :]).heads(-2) is None
    twice = Origin(layer(), HEADS[[0, 0, 1]][:, None, :]).heads(-2)
    assert twice is not None
    assert twice.shape == (3, 3)
