"""Operators through which no channel can be followed, each with the reason."""

from __future__ import annotations

import onnx_ir as ir

from shrinkc.analysis.flow import Blocked, Flow, RuleTable

DATA_DEPENDENT = "how much it gives depends on the data"
SEQUENCE = "channels are not followed through a sequence of tensors"
OPTIONAL = "channels are not followed through an optional value"
RANDOM = "it draws random numbers, one per channel"
COORDINATES = "its numbers are coordinates and scores"
SIGNAL = "it transforms a signal of fixed length"
LOSS = "it is a loss over classes"
TEXT = "it works on text"

REASONS = {
    "Bernoulli": RANDOM,
    "ConcatFromSequence": SEQUENCE,
    "DFT": SIGNAL,
    "Det": "channels lie in a matrix of which it takes the determinant",
    "EyeLike": "it makes a matrix whose diagonal counts channels",
    "ImageDecoder": "it decodes a file",
    "MaxUnpool": "the positions it writes to count through all channels",
    "MelWeightMatrix": SIGNAL,
    "Multinomial": RANDOM,
    "NegativeLogLikelihoodLoss": LOSS,
    "NonMaxSuppression": COORDINATES,
    "NonZero": DATA_DEPENDENT,
    "Optional": OPTIONAL,
    "OptionalGetElement": OPTIONAL,
    "OptionalHasElement": OPTIONAL,
    "RandomNormalLike": RANDOM,
    "RandomUniformLike": RANDOM,
    "Range": DATA_DEPENDENT,
    "RegexFullMatch": TEXT,
    "STFT": SIGNAL,
    "SequenceAt": SEQUENCE,
    "SequenceConstruct": SEQUENCE,
    "SequenceErase": SEQUENCE,
    "SequenceInsert": SEQUENCE,
    "SequenceLength": SEQUENCE,
    "SequenceMap": SEQUENCE,
    "SoftmaxCrossEntropyLoss": LOSS,
    "SplitToSequence": SEQUENCE,
    "StringConcat": TEXT,
    "StringNormalizer": TEXT,
    "StringSplit": TEXT,
    "TensorScatter": "it writes into a cache at computed positions",
    "TfIdfVectorizer": TEXT,
    "Unique": DATA_DEPENDENT,
}


def refuse(flow: Flow, node: ir.Node) -> None:
    """Say why the channels stay."""
    raise Blocked(REASONS[node.op_type])


RULES: RuleTable = {("", op): refuse for op in REASONS}
