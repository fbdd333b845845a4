"""torch.compile as one of the engines."""

from __future__ import annotations

import torch
import torch._inductor.config
from engines import Arrays, time_runs
from torch import nn


class TorchCompile:
    """A module compiled by Inductor, with its weights frozen, as for deployment."""

    def __init__(self, module: nn.Module, threads: int, inputs: Arrays) -> None:
        torch.set_num_threads(threads)  # is compiled in
        torch._dynamo.reset()
        self._threads = threads
        self._inputs = [torch.from_numpy(array) for array in inputs.values()]
        self._module = torch.compile(module, dynamic=False, options={"freezing": True})
        self._run()

    def time(self, repeats: int) -> list[float]:
        """Seconds of each run."""
        return time_runs(self._run, repeats)

    @torch.inference_mode()
    def _run(self) -> None:
        self._module(*self._inputs)
