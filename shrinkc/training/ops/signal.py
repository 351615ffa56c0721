"""Fourier transforms, windows and filter banks."""

from __future__ import annotations

import torch
from torch import Tensor

from shrinkc.training.ops.call import Call, Function, Table, read_ints

op = Table()
OPS = op.ops


def _complex(x: Tensor) -> Tensor:
    """Real and imaginary parts along the last axis, one of them or both, as complex numbers."""
    return torch.complex(x[..., 0], torch.zeros_like(x[..., 0])) if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())


def _fourier(x: Tensor, axis: int, length: int | None, is_inverse: bool, is_onesided: bool) -> Tensor:
    signal = _complex(x)
    if is_inverse and is_onesided:
        full = length if length is not None else 2 * (x.shape[axis] - 1)
        real: Tensor = torch.fft.irfft(signal, full, axis)
        return real[..., None].to(x.dtype)
    if is_inverse:
        return torch.view_as_real(torch.fft.ifft(signal, length, axis))
    result = torch.fft.fft(signal, length, axis)
    if is_onesided:
        result = result.narrow(axis, 0, result.shape[axis] // 2 + 1)
    return torch.view_as_real(result)


@op("DFT", since=17)
def dft_by_attribute(call: Call) -> Function:
    """The axis as an attribute (opsets 17 to 19)."""
    axis, inverse, onesided = call.integer("axis", 1), bool(call.integer("inverse")), bool(call.integer("onesided"))

    def run(x: Tensor, length: Tensor | None = None) -> Tensor:
        return _fourier(x, axis % x.dim(), None if length is None else int(length), inverse, onesided)

    return run


@op("DFT", since=20)
def dft(call: Call) -> Function:
    """The axis as an input."""
    inverse, onesided = bool(call.integer("inverse")), bool(call.integer("onesided"))

    def run(x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
        place = (-2 if axis is None else int(axis)) % x.dim()
        return _fourier(x, place, None if length is None else int(length), inverse, onesided)

    return run


@op("STFT")
def stft(call: Call) -> Function:
    """Fourier transforms of windows that step along the signal."""
    is_onesided = bool(call.integer("onesided", 1))

    def run(x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None) -> Tensor:
        signal = x if x.dim() == 2 else _complex(x) if x.shape[-1] == 2 else x[..., 0]
        size = int(length) if length is not None else (window.shape[0] if window is not None else signal.shape[-1])
        frames = signal.unfold(-1, size, int(step))
        frames = frames if window is None else frames * window
        result = torch.fft.fft(frames, dim=-1)
        return torch.view_as_real(result[..., : size // 2 + 1] if is_onesided else result)

    return run


COSINES = {"HannWindow": (0.5, 0.5, 0.0), "HammingWindow": (25 / 46, 21 / 46, 0.0), "BlackmanWindow": (0.42, 0.5, 0.08)}


@op("HannWindow", "HammingWindow", "BlackmanWindow")
def window(call: Call) -> Function:
    """A sum of cosines."""
    dtype, is_periodic = call.dtype("output_datatype") or torch.float32, call.integer("periodic", 1)
    a, b, c = COSINES[call.node.op_type]

    def run(size: Tensor) -> Tensor:
        n = (read_ints(size) or [0])[0]
        phase = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / (n if is_periodic else max(1, n - 1))
        return (a - b * torch.cos(phase) + c * torch.cos(2 * phase)).to(dtype)

    return run


@op("MelWeightMatrix")
def mel_weights(call: Call) -> Function:
    """Triangles over the bins of a spectrum, evenly spread over the mel scale."""
    dtype = call.dtype("output_datatype") or torch.float32

    def run(n_bands: Tensor, length: Tensor, rate: Tensor, low: Tensor, high: Tensor) -> Tensor:
        bands, bins, size = int(n_bands), int(length) // 2 + 1, int(length)
        ends = [2595 * torch.log10(1 + value.to(torch.float64) / 700) for value in (low, high)]
        step = (ends[1] - ends[0]) / (bands + 2)
        mels = torch.arange(bands + 2, dtype=torch.float64) * step + ends[0]
        edges = torch.floor((size + 1) * 700 * (10 ** (mels / 2595) - 1) / float(rate)).long()
        return _triangles(edges, bins).to(dtype)

    return run


def _triangles(edges: Tensor, bins: int) -> Tensor:
    result = torch.zeros(bins, len(edges) - 2, dtype=torch.float64)
    for band, (low, middle, high) in enumerate(edges.unfold(0, 3, 1).tolist()):
        if middle == low:
            result[middle, band] = 1
        for position in range(low, middle + 1):
            if middle > low:
                result[position, band] = (position - low) / (middle - low)
        for position in range(middle, high):
            result[position, band] = (high - position) / (high - middle)
    return result
