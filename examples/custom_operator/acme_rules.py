"""What channel removal means for the operators of com.acme."""

from shrinkc.analysis.flow import Role


def scaled_relu(flow, node):
    """ScaledRelu(x, scale): Relu(x), times one scale per channel; the channels lie on axis 1."""
    flow.require_constant(node, 1)
    channels = flow.channels(node.inputs[0], 1)
    flow.attach(node, 1, 0, channels, Role.SCALES)
    flow.assign_channels(node.outputs[0], channels, 1)


RULES = {("com.acme", "ScaledRelu"): scaled_relu}
