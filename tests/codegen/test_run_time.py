"""What compiled segments take while they run: threads and memory."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from relax_models import cut_from, layer_graph, make_module
from tvm.relax import op

from partc.codegen.halves import build_half
from partc.passes.canonicalize import canonicalize
from partc.passes.segment import build_plan_table
from partc.plan import Side
from partc.profiler.layers import Layers
from partc.targets.target import load_target

CALLS = 200

# Has the C library ask the kernel for all but the smallest pieces of memory, and give them back.
ENVIRONMENT = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "16384"}

# Runs segments over and over, on tensors that are there, and says what that took: for each thread
# its computing time, and for the process how often the kernel gave it a page.
MEASURE = """
import json, os, resource, sys, threading
from dataclasses import replace
from pathlib import Path
import numpy as np
from partc.runtime.executor import Executor
from partc.runtime.spec import *

artifact = replace({artifact!r}, threads={threads})
executor = Executor(Path({directory!r}), artifact)
image = np.random.default_rng(0).standard_normal({shape!r}, np.float32)
given = {{"x": executor.upload("x", image)}}

def run(calls):
    for _ in range(calls):
        executor.call(artifact.segments, dict(given))

def busy_ns():
    tasks = os.listdir("/proc/self/task")
    stats = {{int(task): Path(f"/proc/self/task/{{task}}/schedstat").read_text() for task in tasks}}
    return {{task: int(text.split()[0]) for task, text in stats.items()}}

run(5)
faults, before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, busy_ns()
run({calls})
faults, after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, busy_ns()
known = {{os.getpid(), executor._thread.submit(threading.get_native_id).result()}}
spent = {{task: after[task] - before.get(task, 0) for task in after}}
print(json.dumps({{
    "faults": faults,
    "own_ns": sum(ns for task, ns in spent.items() if task in known),
    "others_ns": [ns for task, ns in spent.items() if task not in known and ns > 0],
}}))
"""

IMAGE = (1, 3, 96, 128)


def network(emit: Callable[..., Any], image: Any) -> Any:
    """Layers of every kind whose tensors take up to two megabytes."""
    net = Layers(emit)
    stem = net.relu(net.bias(net.conv2d(image, 40, padding=(1, 1, 1, 1))))
    moved = net.depthwise(stem, strides=(2, 2), padding=(0, 0, 1, 1))
    wide = net.instance_norm(net.conv2d(moved, 64, (1, 1)))
    added = net.emit(op.add(wide, net.conv2d(wide, 64, padding=(1, 1, 1, 1))))
    grouped = net.shuffle(net.conv2d(added, 64, padding=(1, 1, 1, 1), groups=4), 4)
    pooled = net.emit(op.nn.max_pool2d(grouped, (3, 3), (2, 2), (1, 1, 1, 1)))
    grown = net.conv2d_transpose(pooled, 20, (2, 2), strides=(2, 2))
    shares = net.emit(op.nn.softmax(grown, axis=1))
    rows = net.emit(op.reshape(net.emit(op.permute_dims(shares, (0, 2, 3, 1))), (1, -1, 20)))
    mean = net.emit(op.mean(net.attend(net.emit(op.strided_slice(rows, [1], [0], [200])), 2), [1]))
    return [net.dense(mean, 1000), shares]


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Any]]:
    """Measures one and the same half with any number of threads."""
    directory = tmp_path_factory.mktemp("half")
    graph = layer_graph(canonicalize(make_module({"x": IMAGE}, network)))
    table = build_plan_table(graph, [cut_from(graph, graph.layers[4:5])])
    artifact = build_half(graph, table, Side.DEVICE, load_target("native"), directory)
    assert len(artifact.segments) == 2
    assert max(np.prod(tensor.type.shape) for tensor in graph.tensors) * 4 > 1e6

    @functools.cache
    def measure(threads: int) -> dict[str, Any]:
        program = MEASURE.format(
            artifact=artifact, directory=str(directory), shape=IMAGE, threads=threads, calls=CALLS
        )
        command = [sys.executable, "-c", program]
        ran = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    return measure


def test_one_thread_is_one_thread_and_two_are_two(
    measure: Callable[[int], dict[str, Any]],
) -> None:
    one, two = measure(1), measure(2)
    assert one["others_ns"] == []
    (other_ns,) = two["others_ns"]
    assert other_ns > two["own_ns"] / 5


@pytest.mark.parametrize("threads", [1, 2])
def test_segments_that_have_run_before_allocate_nothing(
    measure: Callable[[int], dict[str, Any]], threads: int
) -> None:
    assert measure(threads)["faults"] < CALLS
