"""Proof of the rule: channels are removed at random and the models are run."""

import acme_rules

from shrinkc.testing import prove_rule

MODEL = """
<ir_version: 8, opset_import: ["": 17, "com.acme": 1]>
net (float[N,3,8,8] x, float[8,3,3,3] before, float[8] scale, float[4,8,1,1] after) => (float[N,4,6,6] y)
<float[N,8,6,6] scaled>
{
    wide = Conv (x, before)
    scaled = com.acme.ScaledRelu (wide, scale)
    y = Conv (scaled, after)
}
<domain: "com.acme", opset_import: ["": 17]>
ScaledRelu (x, scale) => (y)
{
    positive = Relu (x)
    axes = Constant <value_ints = [1, 2]> ()
    column = Unsqueeze (scale, axes)
    y = Mul (positive, column)
}
"""


def test_channels_go_together_with_their_scale():
    """The scale of a channel that goes must go too."""
    removed = prove_rule(MODEL, weights=["before", "scale", "after"], rules=acme_rules.RULES)
    assert removed["before"] > 0
