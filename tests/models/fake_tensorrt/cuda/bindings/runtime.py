"""Stands in for NVIDIA's bindings: memory of the card is memory of this process."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

KEPT = {}


class cudaMemcpyKind:
    cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost = 1, 2


def cudaGetDeviceProperties(index):
    return 0, SimpleNamespace(name=b"Fake card\0")


def cudaMalloc(size):
    memory = ctypes.create_string_buffer(size)
    KEPT[ctypes.addressof(memory)] = memory
    return 0, ctypes.addressof(memory)


def cudaStreamCreate():
    return 0, 7


def cudaStreamSynchronize(stream):
    return (0 if stream == 7 else 1,)


def cudaMemcpy(target, source, size, kind):
    card = target if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else source
    if card not in KEPT or size > len(KEPT[card]):
        return (1,)
    ctypes.memmove(target, source, size)
    return (0,)
