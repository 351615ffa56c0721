"""Stored tensors as parameters and buffers, under the names they have in the ONNX file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

RESERVED = frozenset(dir(nn.Module()))


class Scope(nn.Module):
    """One part of dotted names; holds tensors and further scopes."""


def keys_of(names: Iterable[str]) -> dict[str, str]:
    """Key in the state dict for every ONNX name: the name itself, where torch allows it.

    A dotted name becomes nested modules.  Torch allows no empty part, no part that is an attribute of every module, and no
    tensor whose name is the scope of another one: such a name becomes ``%`` and the name with ``%`` and ``.`` escaped as
    in web addresses (``%25``, ``%2E``).
    """
    names = list(names)
    scopes = {name[:end] for name in names for end in range(len(name)) if name[end] == "."}
    return {name: name if _is_allowed(name, scopes) else _escaped(name) for name in names}


def _is_allowed(name: str, scopes: set[str]) -> bool:
    return name not in scopes and not name.startswith("%") and all(part and part not in RESERVED for part in name.split("."))


def _escaped(name: str) -> str:
    return "%" + name.replace("%", "%25").replace(".", "%2E")


def put(root: nn.Module, key: str, tensor: Tensor, is_persistent: bool = True) -> tuple[dict[str, Any], str]:
    """Store a parameter or buffer under a dotted key; returns the dictionary it lies in, and its name there."""
    *parts, last = key.split(".")
    for part in parts:
        if part not in root._modules:
            root.add_module(part, Scope())
        root = root.get_submodule(part)
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(last, tensor)
        return root._parameters, last
    root.register_buffer(last, tensor, persistent=is_persistent)
    return root._buffers, last
