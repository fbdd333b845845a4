from __future__ import annotations

import importlib
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from partc.errors import TargetError
from partc.targets.target import Target, builtin_targets, load_target

MINE = """
name = "mine"
description = "A board of my own"
threads = 2
peak_gflops = 10
memory_bandwidth_gb_s = 2.5
launch_overhead_us = 0
memory_gb = 1
idle_watts = 1
busy_watts = 2

[tvm]
kind = "llvm"
mattr = ["+neon"]
num-cores = 2
"""

NAMES = (
    "jetson-agx-orin",
    "jetson-agx-orin-cpu",
    "jetson-agx-xavier",
    "jetson-nano",
    "jetson-orin-nano",
    "jetson-tk1",
    "jetson-tx2",
    "native",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "tesla-k40",
    "x86-64",
    "x86-64-v3",
    "x86-64-v4",
)

ADDRESS = re.compile(r"[a-z0-9-]\.[a-z]+/")
WITHOUT_ADDRESS = ("assumed", "chosen", "measured")
PROFILED = {"entry_ms", "cold_share"}  # zero until `partc profile` has measured them
PRODUCT = re.compile(r"computed: (\d[^;]*)")
EVERY_BOARD = pytest.mark.parametrize(
    "target", builtin_targets(), ids=[target.name for target in builtin_targets()]
)


def edited(**fields: Any) -> Target:
    return msgspec.structs.replace(load_target("x86-64"), **fields)


def test_the_builtin_targets():
    assert tuple(target.name for target in builtin_targets()) == NAMES


def test_the_aliases():
    assert load_target("jetson").name == "jetson-agx-orin"
    assert load_target("jetson-cpu").name == "jetson-agx-orin-cpu"


def test_what_cannot_be_compiled_says_why():
    reasons = {target.name: target.uncompilable for target in builtin_targets()}
    refused = {name for name, reason in reasons.items() if reason}
    assert refused == {
        "jetson-agx-xavier",
        "jetson-nano",
        "jetson-tk1",
        "jetson-tx2",
        "tesla-k40",
    }
    assert "sm_53" in (reasons["jetson-nano"] or "")


def test_every_cpu_has_its_caches_described():
    cpus = [target for target in builtin_targets() if target.tvm.get("kind") == "llvm"]
    assert len(cpus) == 7
    for cpu in cpus:
        assert cpu.sources.keys() >= {"l1_cache_kib", "l2_cache_kib"}
        assert cpu.l1_cache_kib < cpu.l2_cache_kib


@EVERY_BOARD
def test_no_figure_that_predictions_use_is_left_to_its_default(target: Target):
    figures = {name for name, kind in Target.__annotations__.items() if kind in ("int", "float")}
    caches = set() if target.tvm.get("kind") == "llvm" else {"l1_cache_kib", "l2_cache_kib"}
    assert target.sources.keys() == figures - caches - PROFILED


@EVERY_BOARD
def test_a_source_can_be_looked_up_or_says_that_it_cannot(target: Target):
    for source in target.sources.values():
        assert ADDRESS.search(source) or source.startswith(WITHOUT_ADDRESS)


@EVERY_BOARD
def test_a_computed_figure_is_what_its_source_computes(target: Target):
    products = {field: PRODUCT.match(source) for field, source in target.sources.items()}
    assert products["peak_gflops"] or target.sources["peak_gflops"].startswith("measured")
    for field, product in products.items():
        if product:
            factors = [float(factor.split()[0]) for factor in product[1].split(" x ")]
            assert getattr(target, field) == pytest.approx(math.prod(factors), rel=0.005)


@EVERY_BOARD
def test_a_slowdown_of_codecs_is_what_its_source_computes(target: Target):
    source = target.sources["codec_slowdown"]
    quotients = re.findall(r"([\d.]+)(?: GHz)? / ([\d.]+)", source)
    assert bool(quotients) == source.startswith("assumed")
    expected = math.prod(float(above) / float(below) for above, below in quotients)
    assert target.codec_slowdown == pytest.approx(expected, abs=0.05)


def test_a_file_of_ones_own(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    target = load_target(str(path))
    assert target == Target(
        name="mine",
        description="A board of my own",
        threads=2,
        peak_gflops=10,
        memory_bandwidth_gb_s=2.5,
        launch_overhead_us=0,
        memory_gb=1,
        idle_watts=1,
        busy_watts=2,
        tvm={"kind": "llvm", "mattr": ["+neon"], "num-cores": 2},
    )
    assert target.achieved_fraction == 1
    assert (target.l1_cache_kib, target.l2_cache_kib) == (32, 256)
    assert (target.entry_ms, target.cold_share) == (0, 0)
    assert target.codec_slowdown == 1
    assert target.uncompilable is None


@pytest.mark.parametrize(
    "field",
    [
        "threads",
        "peak_gflops",
        "memory_bandwidth_gb_s",
        "memory_gb",
        "busy_watts",
        "achieved_fraction",
        "l1_cache_kib",
        "l2_cache_kib",
        "codec_slowdown",
    ],
)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_figures_that_must_be_positive(field: str, value: float):
    with pytest.raises(ValueError, match=f"^{field} must be a finite number above zero, not"):
        edited(**{field: value})


@pytest.mark.parametrize("field", ["launch_overhead_us", "idle_watts", "entry_ms", "cold_share"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_figures_that_must_not_be_negative(field: str, value: float):
    with pytest.raises(ValueError, match=f"^{field} must be a finite number of at least zero, not"):
        edited(**{field: value})


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"achieved_fraction": 1.5}, r"achieved_fraction must be at most 1, not 1\.5"),
        (
            {"idle_watts": 3, "busy_watts": 2},
            r"idle_watts must not exceed busy_watts, 3 > 2",
        ),
        ({"tvm": {"mcpu": "native"}}, r"tvm needs a tag or a kind"),
        ({"uncompilable": ""}, r"uncompilable must give a reason or be left out"),
        ({"name": ""}, r"name, description and aliases must not be empty"),
    ],
)
def test_other_rules(fields: dict[str, Any], problem: str):
    with pytest.raises(ValueError, match=problem):
        edited(**fields)


def test_a_wrong_figure_in_a_file_names_the_file(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace("peak_gflops = 10", "peak_gflops = -10"))
    with pytest.raises(
        TargetError, match=r"mine\.toml' does not describe a target: peak_gflops must be a finite"
    ):
        load_target(str(path))


def test_a_target_does_not_change():
    with pytest.raises(AttributeError):
        setattr(load_target("native"), "threads", 4)  # noqa: B010 — pyright refuses the plain form


@EVERY_BOARD
def test_tvm_accepts_the_target(target: Target):
    tvm = importlib.import_module("tvm")
    made = tvm.target.Target(target.tvm)
    if made.kind.name == "cuda":
        host = made.host.attrs["mtriple"]
        on_x86 = target.name == "tesla-k40"
        on_32_bits = target.name == "jetson-tk1"
        expected = "x86_64-linux-gnu" if on_x86 else "aarch64-linux-gnu"
        assert host == ("armv7l-linux-gnueabihf" if on_32_bits else expected)


def test_the_packages_load_no_compiler():
    """Planning on a small machine must not cost the compiler's 260 MB."""
    program = (
        "import sys, partc.targets.link, partc.targets.predictor, partc.passes.annotate\n"
        "print(sorted({'tvm', 'torch', 'onnx'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert run.stdout.strip() == b"[]"
