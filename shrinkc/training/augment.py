"""Augmentation of images: shifted, flipped, mixed.  Teacher and student see the same result, so labels need not survive it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from shrinkc.training.samples import Tensors

LEAST_PIXELS = 8
"""Inputs with fewer rows or columns are no images."""


def is_image(tensor: torch.Tensor) -> bool:
    """Whether an input looks like images, (N, C, H, W)."""
    return tensor.ndim == 4 and tensor.is_floating_point() and min(tensor.shape[2:]) >= LEAST_PIXELS


def augmented(inputs: Tensors, names: Sequence[str], shift: int, generator: torch.Generator) -> Tensors:
    """Inputs with every image changed at random, all images of a sample alike; what is no image stays.

    Parameters
    ----------
    inputs : dict of input name to tensor
    names : sequence of str
        Of the augmentations: ``shift``, ``flip``, ``mix``.
    shift : int
        Most pixels.
    generator : torch.Generator
    """
    changed, start = dict(inputs), generator.get_state()
    for name in (name for name, tensor in inputs.items() if is_image(tensor)):
        generator.set_state(start)
        changed[name] = _changed(inputs[name], names, shift, generator)
    return changed


def _changed(images: torch.Tensor, names: Sequence[str], shift: int, generator: torch.Generator) -> torch.Tensor:
    if "shift" in names and shift:
        images = shifted(images, shift, generator)
    if "flip" in names:
        images = flipped(images, generator)
    return mixed(images, generator) if "mix" in names else images


def shifted(images: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Every image moved by up to ``most`` pixels each way; what comes in repeats the border."""
    height, width = images.shape[2:]
    padded = F.pad(images, (most, most, most, most), mode="replicate")
    offsets = torch.randint(0, 2 * most + 1, (2, len(images)), generator=generator)
    rows = (offsets[0][:, None] + torch.arange(height))[:, None, :, None]
    columns = (offsets[1][:, None] + torch.arange(width))[:, None, None, :]
    samples, channels = torch.arange(len(images))[:, None, None, None], torch.arange(images.shape[1])[None, :, None, None]
    return padded[samples, channels, rows, columns]


def flipped(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Every other image, at random, mirrored left to right."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def mixed(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Every image with a share, uniform in [0, 1/2), of another one of the batch.

    Zhang, Cisse, Dauphin, Lopez-Paz. mixup. ICLR 2018, eq. (1).  Differs: the targets are the teacher's for the mixture.
    """
    other = torch.randperm(len(images), generator=generator)
    share = torch.rand(len(images), generator=generator)[:, None, None, None].to(images.dtype) / 2
    return torch.lerp(images, images[other], share)
