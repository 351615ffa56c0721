"""Published widths, reproduced from the rules of the papers on dense graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from models.builder import Net
from models.published_networks import VGG16, bottleneck_resnet, resnet, vgg16
from shrinkc.passes.allocators.preset import Preset, names

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.allocate import Allocating, Limits
from shrinkc.analysis.cost import CostModel
from shrinkc.analysis.groups import Analysis, analyse
from shrinkc.errors import RecipeError
from shrinkc.shapes import input_shapes

CIFAR, IMAGENET = (16, 32, 64), (64, 128, 256, 512)
RESNET50 = ((3, 4, 6, 3), IMAGENET)


def kept(analysis: Analysis, preset: str) -> list[tuple[int, int]]:
    """Channels before and after of every group that a single convolution makes, in graph order."""
    scores = {group.name: np.arange(group.width, dtype=float) for group in analysis.groups}
    keep = Allocating(analysis, CostModel(analysis), Preset(preset), scores, Limits()).at(1.0).keep
    return [(group.width, len(keep[group.name])) for group in analysis.groups]


def narrowed(analysis: Analysis, preset: str) -> list[int]:
    """Widths of the groups that got narrower, in graph order; the others must be whole."""
    return [after for before, after in kept(analysis, preset) if after < before]


def by_rule(blocks: Sequence[int], widths: Sequence[int], lost: Sequence[float], skipped: Sequence[int]) -> list[int]:
    """Li et al.: the first convolution of a block, the stem being number 1, loses a share of its stage."""
    result, number = [], 0
    for count, width, share in zip(blocks, widths, lost, strict=True):
        for _ in range(count):
            number += 2
            if share and number not in skipped:
                result.append(int(width * (1 - share)))
    return result


LI: Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[float], Sequence[int]]] = {
    "li-resnet56-a": ((9, 9, 9), CIFAR, (0.1, 0.1, 0.1), (16, 20, 38, 54)),
    "li-resnet56-b": ((9, 9, 9), CIFAR, (0.6, 0.3, 0.1), (16, 18, 20, 34, 38, 54)),
    "li-resnet110-a": ((18, 18, 18), CIFAR, (0.5, 0, 0), (36,)),
    "li-resnet110-b": ((18, 18, 18), CIFAR, (0.5, 0.4, 0.3), (36, 38, 74)),
    "li-resnet34-a": ((3, 4, 6, 3), IMAGENET, (0.3, 0.3, 0.3, 0), (2, 8, 14, 16, 26, 28, 30, 32)),
    "li-resnet34-b": ((3, 4, 6, 3), IMAGENET, (0.5, 0.6, 0.4, 0), (2, 8, 14, 16, 26, 28, 30, 32)),
}


@pytest.mark.parametrize("preset", LI)
def test_residual_networks_of_li_et_al(preset: str, analysed: Callable[..., Analysis]) -> None:
    blocks, widths, lost, skipped = LI[preset]
    analysis = analysed(resnet(blocks, widths, stem=7 if "34" in preset else 3))
    assert narrowed(analysis, preset) == by_rule(blocks, widths, lost, skipped)


@pytest.mark.parametrize(
    ("preset", "widths"),
    [
        ("li-vgg16-a", [32, 64, 128, 128, 256, 256, 256, 256, 256, 256, 256, 256, 256]),
        ("thinet-vgg16", [32, 32, 64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512]),
        ("he-vgg16-5x", [24, 22, 41, 51, 108, 89, 111, 184, 276, 228, 512, 512, 512]),
    ],
)
def test_vgg16(preset: str, widths: list[int], analysed: Callable[..., Analysis]) -> None:
    assert kept(analysed(vgg16()), preset) == list(zip(VGG16, widths, strict=True))


@pytest.mark.parametrize("is_shortcut_first", [False, True])
@pytest.mark.parametrize(
    ("preset", "stages"),
    [("thinet-70", (44, 89, 179, 358)), ("thinet-50", (32, 64, 128, 256)), ("thinet-30", (19, 38, 76, 153))],
)
def test_thinet_narrows_the_inner_convolutions_of_every_bottleneck(
    preset: str, stages: Sequence[int], is_shortcut_first: bool, resnet50: Mapping[bool, Analysis]
) -> None:
    expected = [width for count, width in zip((3, 4, 6, 3), stages, strict=True) for _ in range(2 * count)]
    assert narrowed(resnet50[is_shortcut_first], preset) == expected


def test_he_et_al_give_every_bottleneck_widths_of_its_own(resnet50: Mapping[bool, Analysis]) -> None:
    assert narrowed(resnet50[False], "he-resnet50-2x") == [
        55, 51, 39, 50, 37,
        106, 105, 72, 105, 72, 110,
        225, 209, 147, 204, 158, 212, 155, 211, 148, 213,
        433, 437, 440,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "net", "words"),
    [
        ("li-vgg16-a", lambda: resnet((1, 1, 1), CIFAR), ["VGG-16 for CIFAR-10", "13 convolutions", "found: 7"]),
        ("li-vgg16-a", lambda: vgg16((64, 64, 96, *VGG16[3:])), ["128 channels in convolution 3", "96 (Conv_"]),
        ("thinet-50", lambda: resnet((1, 1, 1), CIFAR), ["33 convolutions whose channels are not tied", "found: 3"]),
        ("li-resnet56-b", lambda: plain(), ["can go one by one in convolution 2", "tied"]),
    ],
)
def test_another_model_is_refused_with_what_was_expected_and_found(
    preset: str, net: Callable[[], Net], words: list[str], analysed: Callable[..., Analysis]
) -> None:
    with pytest.raises(RecipeError) as caught:
        kept(analysed(net()), preset)
    for word in words:
        assert word in str(caught.value)


def plain() -> Net:
    """The widths of ResNet-56, every two convolutions of one width tied by a shortcut."""
    net = Net()
    x, before = net.input("x", ["n", 3, 8, 8]), 3
    for number, width in enumerate([16] + [width for width in CIFAR for _ in range(18)]):
        y = net.conv(x, before, width)
        x, before = (net.op("Add", x, y) if number and before == width else y), width
    net.output(net.head(x, before))
    return net


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="thinet-70"):
        Preset("thinet-71")


@pytest.mark.parametrize("preset", names())
def test_no_list_widens_anything(preset: str) -> None:
    lists = Preset(preset).published
    assert len(lists.dense) == len(lists.kept)
    assert all(0 < after <= before for before, after in zip(lists.dense, lists.kept, strict=True))


def loaded(net: Net, folders: pytest.TempPathFactory) -> Analysis:
    model = shrinkc_ir.load(net.save(folders.mktemp("net") / "model.onnx"))
    return analyse(model, input_shapes(model, None), registry.operator_rules())


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Analysis]:
    """ResNet-50, the convolution of the shortcut last and first."""
    return {first: loaded(bottleneck_resnet(*RESNET50, is_shortcut_first=first), tmp_path_factory) for first in (False, True)}
