"""Who may import whom: the table below is the rule, the tests keep it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {  # package: its folder
    "partc": "partc",
    "partc.codegen": "codegen",
    "partc.passes": "passes",
    "partc.targets": "targets",
}

# What only some modules may import; other libraries are free, except to a self-contained rule.
GUARDED = ("partc", "tvm", "torch", "onnx", "onnxruntime", "onnxslim")
CORE = ("partc.errors", "partc.graph", "partc.plan", "partc.cost", "partc.quantities")
DECIDING = (
    *(
        f"partc.passes.{name}"
        for name in (
            "annotate",
            "baselines",
            "chain",
            "choices",
            "closure",
            "cut",
            "dads",
            "encode",
            "envelope",
            "limited",
            "memory",
            "overlap",
            "pareto",
            "pins",
            "price",
            "programme",
            "schedule",
            "segment",
            "switches",
            "tiers",
        )
    ),
    "partc.targets",
)
SIBLING = ".[!.]*"  # a relative import from the same package


@dataclass(frozen=True)
class Rule:
    """What some modules may import besides the standard library.

    A pattern stands for the modules that it matches and everything in them. ``self_contained``
    modules import nothing else, others also any library that is not guarded.
    """

    modules: tuple[str, ...]
    may_import: tuple[str, ...]
    self_contained: bool = False

    def __str__(self) -> str:
        allowed = ", ".join(self.may_import) or "nothing"
        guarded = "anything" if self.self_contained else f"any of {', '.join(GUARDED)}"
        return f"of {guarded}, {', '.join(self.modules)} may import only: {allowed}"

    def allows(self, imported: str) -> bool:
        top = imported.partition(".")[0]
        guarded = self.self_contained or top in GUARDED or imported.startswith(".")
        return top in sys.stdlib_module_names or not guarded or matches(imported, self.may_import)


# A module follows the first rule that matches it.
RULES = (
    Rule(("partc.errors",), ()),
    Rule(("partc.graph",), ("partc.errors",)),
    Rule(("partc.plan",), ("partc.errors", "partc.graph")),
    Rule(("partc.cost",), ("partc.plan",)),
    Rule(("partc.quantities",), ("partc.errors",)),
    Rule(DECIDING, (*CORE, *DECIDING)),
    Rule(("partc.passes",), (*CORE, "partc.passes", "tvm")),
    Rule(
        ("partc.frontends.onnx*",),
        (*CORE, "partc.frontends", "tvm", "onnx", "onnxruntime", "onnxslim"),
    ),
    Rule(("partc.frontends.torch*",), (*CORE, "partc.frontends", "tvm", "torch")),
    Rule(("partc.frontends",), (*CORE, "partc.frontends", "tvm")),
    Rule(("partc.codegen",), ("partc", "tvm")),
    Rule(("partc.profiler",), ("partc", "tvm")),
    Rule(("partc.runtime",), (SIBLING, "numpy", "grpc", "tvm_ffi"), self_contained=True),
    Rule(("partc",), ("partc",)),
)


def matches(module: str, patterns: tuple[str, ...]) -> bool:
    return any(
        fnmatchcase(module, form) for pattern in patterns for form in (pattern, f"{pattern}.*")
    )


def rule_for(module: str) -> Rule:
    return next(rule for rule in RULES if matches(module, rule.modules))


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """The name and the file of every module."""
    for package, folder in PACKAGES.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__"), path


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """The line and the full name of everything that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (f"{node.module}." if node.module else "")
            yield from ((node.lineno, prefix + alias.name) for alias in node.names)


def violations(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root).as_posix()}:{line}: imports {imported}; {rule_for(module)}"
        for module, path in modules(root)
        for line, imported in imports(path)
        if not rule_for(module).allows(imported)
    ]


def test_every_import_follows_the_rules() -> None:
    found = violations(ROOT)
    assert not found, "\n".join(found)


def test_every_rule_has_a_module_that_follows_it() -> None:
    followed = {rule_for(module) for module, _ in modules(ROOT)}
    assert [str(rule) for rule in RULES if rule not in followed] == []


@pytest.mark.parametrize(
    ("file", "source", "imported"),
    [
        ("partc/errors.py", "from partc.graph import Layer", "partc.graph.Layer"),
        ("partc/errors.py", "import partc", "partc"),
        ("partc/graph.py", "from partc import plan", "partc.plan"),
        ("partc/graph.py", "from . import errors", ".errors"),
        ("partc/plan.py", "def f():\n    import tvm.relax", "tvm.relax"),
        ("passes/annotate.py", "from partc.passes.build import build_graph", "partc.passes.build."),
        ("passes/cut.py", "from partc.compiler import plan", "partc.compiler.plan"),
        ("passes/build.py", "from partc.codegen import lower", "partc.codegen.lower"),
        ("targets/profile.py", "if True:\n    from tvm import rpc", "tvm.rpc"),
        ("codegen/build.py", "import torch as t", "torch"),
        ("partc/profiler/networks.py", "from onnx import helper", "onnx.helper"),
        ("partc/interruption.py", "import tvm", "tvm"),
        ("partc/frontends/torch.py", "import onnx", "onnx"),
        ("partc/frontends/onnx_shapes.py", "import torch.fx", "torch.fx"),
        ("partc/frontends/source.py", "from onnxruntime import InferenceSession", "onnxruntime."),
        ("partc/report/text.py", "import numpy, tvm", "tvm"),
        ("partc/__init__.py", "from tvm import relax", "tvm.relax"),
        ("partc/runtime/client.py", "from partc.runtime import spec", "partc.runtime.spec"),
        ("partc/runtime/client.py", "from ..plan import Plan", "..plan.Plan"),
        ("partc/runtime/client.py", "from .. import plan", "..plan"),
        ("partc/runtime/__init__.py", "import msgspec", "msgspec"),
    ],
)
def test_a_planted_violation_is_found(
    tmp_path: Path, file: str, source: str, imported: str
) -> None:
    plant(tmp_path, file, source)
    (message,) = violations(tmp_path)
    assert message.startswith(f"{file}:{len(source.splitlines())}: imports {imported}")
    assert "may import only: " in message


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("partc/plan.py", "import math\nfrom partc.graph import Layer"),
        ("passes/cut.py", "import ortools\nfrom partc.targets.link import Link"),
        ("codegen/build.py", "import tvm_ffi\nfrom tvm import relax"),
        ("partc/profiler/session.py", "from tvm import rpc\nfrom partc.codegen.build import a"),
        ("partc/frontends/torch_archive.py", "from torch import nn"),
        (
            "partc/runtime/client.py",
            "import os\nimport grpc\nfrom . import oip\nfrom .spec import A",
        ),
        ("partc/cli.py", "def f():\n    from partc.compiler import compile_model"),
    ],
)
def test_what_the_rules_allow_passes(tmp_path: Path, file: str, source: str) -> None:
    plant(tmp_path, file, source)
    assert violations(tmp_path) == []


def plant(root: Path, file: str, source: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
