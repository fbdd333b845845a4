from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvm import relax, s_tir, te

from partc.runtime import executor as executor_module
from partc.runtime.errors import ArtifactError, ExecutionError, InputError, IntegrityError
from partc.runtime.executor import Executor, check_sha256
from partc.runtime.oip import DATATYPES
from partc.runtime.spec import SegmentSpec


def test_runs_segments_one_after_the_other(toy: Any, toy_executor: Executor) -> None:
    inputs = toy.inputs()
    request = toy_executor.request(inputs)
    request.run(("segment_0", "segment_1"))
    toy.assert_same(
        {name: request.array(name) for name in ("scores", "hidden", "image")}, toy.outputs(inputs)
    )


def test_goes_on_from_what_a_request_holds(toy: Any, toy_executor: Executor) -> None:
    inputs = toy.inputs()
    request = toy_executor.request(inputs)
    request.run(("segment_0",))
    request.array("hidden")
    request.run(("segment_1",))
    np.testing.assert_allclose(request.array("scores"), toy.outputs(inputs)["scores"], rtol=1e-6)


def test_starts_from_a_tensor_in_the_middle(toy: Any, toy_executor: Executor) -> None:
    expected = toy.outputs(toy.inputs())
    arrays = {"hidden": expected["hidden"], "offset": toy.inputs()["offset"]}
    request = toy_executor.request(arrays)
    request.run(("segment_1",))
    np.testing.assert_allclose(request.array("scores"), expected["scores"], rtol=1e-6)


def test_tensors_stay_on_the_device_between_segments(
    toy: Any, toy_executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = toy_executor.request(toy.inputs())
    request.run(("segment_0",))
    monkeypatch.setattr(Executor, "download", lambda *_: pytest.fail("downloaded"))
    uploaded: list[Any] = []
    upload = Executor.upload
    monkeypatch.setattr(
        Executor,
        "upload",
        lambda self, name, array: uploaded.append(array) or upload(self, name, array),
    )
    request.run(("segment_1",))
    assert [array.dtype for array in uploaded] == ["int64"]


def test_takes_arrays_that_are_not_contiguous(toy: Any, toy_executor: Executor) -> None:
    inputs = toy.inputs()
    inputs["image"] = np.asfortranarray(inputs["image"])
    request = toy_executor.request(inputs)
    request.run(("segment_0",))
    np.testing.assert_allclose(request.array("hidden"), toy.outputs(inputs)["hidden"])


@pytest.mark.parametrize("dtype", DATATYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_copies_every_dtype_and_rank(
    toy_executor: Executor, dtype: str, shape: tuple[int, ...]
) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    copied = toy_executor.download("x", toy_executor.upload("x", array))
    np.testing.assert_array_equal(copied, array, strict=True)


def test_many_threads_get_their_own_results(toy: Any, toy_executor: Executor) -> None:
    def ask(seed: int) -> None:
        inputs = toy.inputs(seed)
        request = toy_executor.request(inputs)
        request.run(("segment_0", "segment_1"))
        np.testing.assert_allclose(
            request.array("scores"), toy.outputs(inputs)["scores"], rtol=1e-6
        )

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(200)))


def test_a_half_may_lack_segments(toy: Any) -> None:
    executor = toy.half.executor(segments=toy.half.artifact.segments[:1])
    with pytest.raises(ArtifactError, match="this half of the bundle has no segment 'segment_1'"):
        executor.request(toy.inputs()).run(["segment_0", "segment_1"])


def test_no_segments_is_no_work(toy: Any, toy_executor: Executor) -> None:
    request = toy_executor.request(toy.inputs())
    request.run(())
    with pytest.raises(InputError, match="does not hold tensor 'hidden'; run its segment first"):
        request.array("hidden")


def test_a_missing_tensor_is_named(toy: Any, toy_executor: Executor) -> None:
    with pytest.raises(InputError, match="segment 'segment_1' reads tensor 'hidden'"):
        toy_executor.request(toy.inputs()).run(["segment_1"])


def test_a_failing_segment_is_named(toy: Any, toy_executor: Executor) -> None:
    request = toy_executor.request({"image": np.zeros((3, 3), "float32")})
    with pytest.raises(ExecutionError, match="segment 'segment_0' failed: "):
        request.run(["segment_0"])


def test_a_segment_with_too_few_outputs_is_named(toy: Any) -> None:
    segment = SegmentSpec("segment_0", ("image",), ("weight",), ("hidden", "more"))
    executor = toy.half.executor(segments=(segment,))
    with pytest.raises(ExecutionError, match="segment 'segment_0' failed: zip"):
        executor.request(toy.inputs()).run(["segment_0"])


@pytest.mark.parametrize("name", ["library", "params"])
def test_refuses_a_changed_file_before_it_is_loaded(
    toy: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loader in ("load_runtime", "_load_functions"):
        monkeypatch.setattr(executor_module, loader, lambda *_: pytest.fail("loaded"))
    file = getattr(toy.half.artifact, name)
    message = f"{file} has changed since the bundle was written: its SHA-256 is [0-9a-f]{{64}}, "
    with pytest.raises(IntegrityError, match=message):
        toy.half.executor(**{f"{name}_sha256": "0" * 64})


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"gone\.so cannot be read: No such file"):
        check_sha256(tmp_path / "gone.so", "")


def with_file(toy: Any, name: str, path: Path) -> Executor:
    """An executor with another file, whose digest is right."""
    artifact = replace(toy.half.artifact, **{name: str(path)})
    digest = executor_module._sha256(path)
    return Executor(toy.half.directory, replace(artifact, **{f"{name}_sha256": digest}))


@pytest.mark.parametrize(
    ("name", "message"),
    [("library", "junk cannot be loaded: "), ("params", "junk is no archive of arrays: ")],
)
def test_refuses_junk(toy: Any, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(ArtifactError, match=message):
        with_file(toy, name, tmp_path / "junk")


def test_never_unpickles(toy: Any, tmp_path: Path) -> None:
    pickled = np.array([{}], object)
    np.savez(tmp_path / "params.npz", weight=pickled, bias=pickled)
    with pytest.raises(ArtifactError, match="is no archive of arrays: Object arrays cannot"):
        with_file(toy, "params", tmp_path / "params.npz")


def test_names_a_missing_weight(toy: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", weight=np.zeros(4, "float32"))
    with pytest.raises(ArtifactError, match="lacks a weight that a segment reads: 'bias"):
        with_file(toy, "params", tmp_path / "params.npz")


def test_names_a_missing_function(toy: Any) -> None:
    with pytest.raises(ArtifactError, match=r"model\.so cannot be loaded: .*'segment_9'"):
        toy.half.executor(segments=(SegmentSpec("segment_9", (), (), ()),))


def test_refuses_unknown_devices_and_negative_threads(toy: Any) -> None:
    with pytest.raises(ArtifactError, match="unknown device 'tpu'; known are cpu, cuda"):
        toy.half.executor(device="tpu")
    with pytest.raises(InputError, match="threads is -1; give 0 for one for each core"):
        toy.half.executor(threads=-1)


def test_says_what_to_install(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ArtifactError, match=r"apache-tvm is not installed; .* requirements\.txt"):
        toy.half.executor()


def test_says_which_runtime_library_cannot_be_loaded(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(executor_module.RUNTIME_LIBRARIES, "cpu", ("libgone.so",))
    with pytest.raises(ArtifactError, match=r"libgone\.so cannot be loaded: "):
        toy.half.executor()


def test_an_accelerator_also_needs_the_host() -> None:
    cuda = executor_module.tvm_ffi.device("cuda", 0)
    cpu = executor_module.tvm_ffi.device("cpu", 0)
    assert executor_module._memory_of(cuda) == (2, 0, 2, 1, 0, 2)
    assert executor_module._memory_of(cpu) == (1, 0, 2)


COUNT_THREADS = """
import json, os, sys
from pathlib import Path
import numpy as np
from partc.runtime.executor import Executor
from partc.runtime.spec import ArtifactSpec, SegmentSpec

def threads():
    tasks = os.listdir("/proc/self/task")
    return {task: os.sched_getaffinity(int(task)) for task in tasks}

described = json.loads(sys.argv[2])
described["segments"] = [SegmentSpec("segment_0", ["x"], [], ["y"])]
executor = Executor(Path(sys.argv[1]), ArtifactSpec(**described))
before = threads()
request = executor.request({"x": np.ones((64, 64), "float32")})
request.run(["segment_0"])
assert (request.array("y") == 2).all()
new = [cpus for task, cpus in threads().items() if task not in before]
allowed = os.sched_getaffinity(0)
if len(new) == len(allowed):
    assert sorted(new, key=min) == [{cpu} for cpu in sorted(allowed)], new
else:
    assert all(cpus == allowed for cpus in new), new
assert not {"tvm", "partc.compiler"} & sys.modules.keys()
print(len(new))
"""


@pytest.fixture(scope="module")
def parallel_half(build_half: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    x = te.placeholder((64, 64), name="x")
    doubled = te.compute((64, 64), lambda i, j: x[i, j] * 2, name="doubled")
    schedule = s_tir.Schedule(te.create_prim_func([x, doubled]))
    schedule.parallel(schedule.get_loops(schedule.get_sblock("doubled"))[0])
    builder = relax.BlockBuilder()
    of_type = relax.TensorType((64, 64), "float32")
    argument = relax.Var("x", of_type)
    with builder.function("segment_0", [argument]):
        kernel = builder.add_func(schedule.mod["main"], "double")
        made = builder.emit(relax.call_tir(kernel, (argument,), of_type))
        builder.emit_func_output(relax.Tuple([made]))
    segments = (SegmentSpec("segment_0", ("x",), (), ("y",)),)
    return build_half(tmp_path_factory.mktemp("parallel"), builder.get(), segments, {})


CPUS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize("threads", [1, CPUS, CPUS + 1])
def test_as_many_threads_as_told_pinned_where_each_has_a_cpu(
    parallel_half: Any, threads: int
) -> None:
    described = {**vars(parallel_half.artifact), "threads": threads, "segments": ()}
    ran = subprocess.run(
        [sys.executable, "-c", COUNT_THREADS, parallel_half.directory, json.dumps(described)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout, ran.returncode) == (f"{threads}\n", 0), ran.stderr


def test_zero_threads_means_one_for_each_core() -> None:
    cores = executor_module._thread_count(0)
    assert 1 <= cores <= len(os.sched_getaffinity(0))
    assert executor_module._thread_count(3) == 3
