"""What this machine's processor and graphics card are, without asking an engine."""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path

X86 = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16")
AMX = ("amx_tile", "amx_int8", "amx_bf16")
ARM = ("asimd", "asimdhp", "fphp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme")
INTERESTING = (*X86, *AMX, *ARM)
"""Flags of Linux that say how fast numbers of a type can be."""

CUDA_DRIVERS = ("libcuda.so.1", "nvcuda.dll")


@cache
def _fields() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = [line.partition(":") for line in lines if ":" in line]
    return {name.strip().lower(): text.strip() for name, _, text in reversed(pairs)}


def instruction_sets() -> tuple[str, ...]:
    """Instruction sets of interest, by the names Linux gives them; empty where they cannot be read."""
    fields = _fields()
    flags = set(f"{fields.get('flags', '')} {fields.get('features', '')}".split())
    return tuple(name for name in INTERESTING if name in flags)


def name() -> str:
    """Model of the processor."""
    return _fields().get("model name") or platform.processor() or platform.machine()


@cache
def missing_cuda_driver() -> str:
    """Why there is no CUDA driver; empty if there is one."""
    for library in CUDA_DRIVERS:
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return ""
    return f"no CUDA driver ({' or '.join(CUDA_DRIVERS)})"
