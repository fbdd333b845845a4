from __future__ import annotations

import re
from typing import Any

import tvm
from relax_models import make_module
from tvm import relax
from tvm.relax import op

from partc.codegen.storage import share_storage


def side_by_side(*widths: int) -> Any:
    """Tensors of 8 rows that are all alive at the same time, and the means they are made of."""

    def build(emit: Any, x: Any) -> Any:
        means = emit(op.mean(x, [1], keepdims=True))
        tensors = [emit(op.broadcast_to(means, (8, width))) for width in widths]
        return emit(op.concat(tensors, 1))

    return build


def planned(module: tvm.IRModule) -> dict[str, list[int]]:
    """The sizes of what each function has planned, in bytes."""
    functions = {
        name.name_hint: function
        for name, function in module.functions.items()
        if isinstance(function, relax.Function)
    }
    pattern = r"memory\.alloc_storage\(R\.shape\(\[(\d+)\]"
    return {
        name: [int(size) for size in re.findall(pattern, function.script())]
        for name, function in functions.items()
    }


def test_functions_plan_storage_of_the_same_sizes_in_their_own_order() -> None:
    functions = {
        name: make_module({"x": (8, 8)}, side_by_side(*widths))["main"]
        for name, widths in {"one": (2, 64, 16), "other": (16, 128), "last": (4,)}.items()
    }
    module = tvm.transform.Sequential(
        [
            relax.transform.LegalizeOps(),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
        ]
    )(
        tvm.IRModule(
            {name: each.with_attr("global_symbol", name) for name, each in functions.items()}
        )
    )
    assert planned(module) == {
        "one": [32, 64, 2048, 512],
        "other": [32, 512, 4096],
        "last": [32, 128],
    }
    assert planned(share_storage(module)) == {
        "one": [32, 64, 4096, 512],
        "other": [64, 512, 4096],
        "last": [512, 4096],
    }
