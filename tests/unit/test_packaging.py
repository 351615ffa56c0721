"""The package is what the tree is, starts light, and its parts keep to their side of the fence."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from shrinkc import registry

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_listed_packages_are_those_of_the_tree() -> None:
    found = set()
    for folder, name in (("shrinkc", "shrinkc"), ("passes", "shrinkc.passes"), ("runtimes", "shrinkc.runtimes")):
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(ROOT / folder).parts]))
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize(
    "group", ["criteria", "allocators", "rewrites", "factorizations", "runtimes", "targets", "oprules", "torch_ops"]
)
def test_every_entry_point_loads_and_is_declared(group: str) -> None:
    assert set(PROJECT["project"]["entry-points"][f"shrinkc.{group}"]) <= set(registry.names(group))
    for name in registry.names(group):
        registry.load(group, name)


COMMANDS = ("bench", "check", "compress", "doctor", "inspect", "recipes", "validate")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom shrinkc.cli import cli\n"
        f"cli.main({arguments!r}, standalone_mode=False)\n"
        "heavy = {'onnxruntime', 'torch', 'onnx', 'onnx_ir', 'numpy', 'scipy', 'onnxscript', 'rich'} & sys.modules.keys()\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("folder", ["passes", "runtimes"])
def test_plug_ins_know_only_the_interface_and_the_lower_half(folder: str) -> None:
    allowed = {
        "shrinkc.api",
        "shrinkc.passes",
        "shrinkc.errors",
        "shrinkc.analysis",
        "shrinkc.budget",
        "shrinkc.decomposing",
        "shrinkc.evidence",
        "shrinkc.factorable",
        "shrinkc.factors",
        "shrinkc.files",
        "shrinkc.head_folding",
        "shrinkc.ir",
        "shrinkc.open_factors",
        "shrinkc.rank_choice",
        "shrinkc.rank_search",
        "shrinkc.rank_gates",
        "shrinkc.runtimes",
        "shrinkc.shapes",
        "shrinkc.signature",
        "shrinkc.stages",
        "shrinkc.training",
    }
    for path in (ROOT / folder).rglob("*.py"):
        used = {name for name in imports(path) if name.startswith("shrinkc")}
        assert all(any(name == a or name.startswith(a + ".") for a in allowed) for name in used), f"{path}: {used}"


def test_the_core_names_no_concrete_pass() -> None:
    for path in (ROOT / "shrinkc").rglob("*.py"):
        assert not any(name.startswith(("shrinkc.passes", "shrinkc.runtimes")) for name in imports(path)), path
