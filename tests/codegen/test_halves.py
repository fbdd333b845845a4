from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partc.codegen.halves import build_half
from partc.compiler import lower_model
from partc.goal import make_goal
from partc.graph import LayerGraph
from partc.passes.segment import build_plan_table
from partc.plan import Cut, NamedPlan, PlanTable, Side
from partc.planner import predict_costs
from partc.runtime.spec import ArtifactSpec
from partc.targets.target import load_target


@pytest.fixture(scope="module")
def graph(tiny_model: Path) -> LayerGraph:
    return predict_costs(lower_model(tiny_model), make_goal("native", "native"))


@pytest.fixture(scope="module")
def table(graph: LayerGraph) -> PlanTable:
    return build_plan_table(graph, [Cut(frozenset(["head"]))])


@pytest.fixture
def build(graph: LayerGraph, tmp_path: Path) -> Callable[..., ArtifactSpec]:
    def build(table: PlanTable, side: Side = Side.DEVICE, **changes: Any) -> ArtifactSpec:
        return build_half(graph, table, side, load_target("native"), tmp_path)

    return build


def without(table: PlanTable, *names: str) -> PlanTable:
    """The table as it would be if these plans used no segments."""
    plans = (
        NamedPlan(named.name, named.plan, (), ()) if named.name in names else named
        for named in table.plans
    )
    return PlanTable(table.segments, tuple(plans))


def test_a_half_describes_the_files_it_wrote(
    build: Callable[..., ArtifactSpec], table: PlanTable, tmp_path: Path
) -> None:
    artifact = build(table)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.so", "params.npz"]
    for name, digest in (
        (artifact.library, artifact.library_sha256),
        (artifact.params, artifact.params_sha256),
    ):
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    with np.load(tmp_path / "params.npz", allow_pickle=False) as weights:
        read = [name for segment in artifact.segments for name in segment.params]
        assert sorted(weights) == sorted(read)
    assert (artifact.device, artifact.threads) == ("cpu", load_target("native").threads)


def test_a_half_has_the_segments_in_the_tables_order(
    build: Callable[..., ArtifactSpec], table: PlanTable
) -> None:
    artifact = build(table)
    assert [segment.name for segment in artifact.segments] == ["segment_0", "segment_1"]
    first, last = artifact.segments
    assert first.inputs == ("x:0",)
    assert first.outputs == last.inputs
    assert last.outputs == ("class",)


@pytest.mark.parametrize("side", list(Side))
def test_plans_that_differ_in_encodings_share_everything(
    build: Callable[..., ArtifactSpec], table: PlanTable, side: Side
) -> None:
    again = [replace(named, name=f"{named.name}+") for named in table.plans]
    artifact = build(table, side)
    assert build(PlanTable(table.segments, (*table.plans, *again)), side) == artifact
    assert [each.segments for each in artifact.sequences] == [("segment_0", "segment_1")]


@pytest.mark.parametrize(
    ("side", "unused", "expected"),
    [
        (Side.DEVICE, ["device-only"], ["segment_0"]),
        (Side.SERVER, ["server-only"], ["segment_1"]),
    ],
)
def test_a_half_has_only_what_its_plans_use(
    build: Callable[..., ArtifactSpec],
    table: PlanTable,
    tmp_path: Path,
    side: Side,
    unused: list[str],
    expected: list[str],
) -> None:
    artifact = build(without(table, *unused), side)
    assert [segment.name for segment in artifact.segments] == expected
    with np.load(tmp_path / "params.npz", allow_pickle=False) as weights:
        assert len(list(weights)) == 1
