"""torch.compile as one of the engines."""

from __future__ import annotations

import torch
from engines import Array, Arrays, time_runs
from torch import Tensor, nn


class TorchCompile:
    """A module compiled by Inductor, with its weights frozen, as for deployment."""

    def __init__(self, module: nn.Module, threads: int, inputs: Arrays) -> None:
        torch.set_num_threads(threads)  # is compiled in
        torch._dynamo.reset()
        self._inputs = [torch.from_numpy(array) for array in inputs.values()]
        self._module = torch.compile(
            module, fullgraph=True, dynamic=False, options={"freezing": True}
        )

    def run(self) -> tuple[Array, ...]:
        """Outputs, in order."""
        outputs = self._run()
        tensors = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(tensor.numpy() for tensor in tensors)

    def time(self, repeats: int) -> list[float]:
        """Seconds of each run."""
        return time_runs(self._run, repeats)

    @torch.inference_mode()
    def _run(self) -> Tensor | tuple[Tensor, ...]:
        return self._module(*self._inputs)
