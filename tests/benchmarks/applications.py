"""The eight applications that Neurosurgeon was evaluated on, each with the input of one query.

Layer by layer as in Kang et al., "Neurosurgeon: Collaborative Intelligence Between the Cloud and
Mobile Edge" (ASPLOS 2017) and the public network definitions of its benchmarks, Tonic and DjiNN.
Weights are random: what a layer costs does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_SEED = 0


class LocallyConnected(nn.Module):
    """A convolution whose filters differ from place to place, as in DeepFace.

    Torch has none. Every place's window is gathered into a row, and multiplied by the matrix of
    that place; there is one bias for every output.

    Args:
        channels: Read and made.
        size: Of the input's height and width.
        kernel: Height and width of a window.
        stride: From one window to the next.
    """

    windows: Tensor

    def __init__(self, channels: tuple[int, int], size: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self._across = (size - kernel) // stride + 1
        places, (read, made) = self._across**2, channels
        self.weight = nn.Parameter(torch.randn(places, read * kernel**2, made) / kernel**2)
        self.bias = nn.Parameter(torch.zeros(places, 1, made))
        self.register_buffer("windows", _windows(size, kernel, stride))

    def forward(self, image: Tensor) -> Tensor:
        """Of float32[1, channels, size, size]."""
        rows = image.flatten(2).squeeze(0)[:, self.windows].transpose(0, 1).flatten(1)
        made = torch.bmm(rows.unsqueeze(1), self.weight) + self.bias
        return made.permute(1, 2, 0).unflatten(2, (self._across, self._across))


def _windows(size: int, kernel: int, stride: int) -> Tensor:
    """Where the pixels of each window are in a flattened image: int64[windows, pixels]."""
    pixels = torch.arange(size * size).reshape(size, size)
    return pixels.unfold(0, kernel, stride).unfold(1, kernel, stride).reshape(-1, kernel**2)


class Answer(nn.Module):
    """The index of the most probable class."""

    def forward(self, probabilities: Tensor) -> Tensor:
        return probabilities.argmax(dim=-1)


def _pool(kernel: int, stride: int) -> nn.Module:
    """With windows over the edge, as Caffe has them."""
    return nn.MaxPool2d(kernel, stride, ceil_mode=True)


def _classify() -> tuple[nn.Module, ...]:
    return nn.Softmax(dim=-1), Answer()


def _dense(read: int, made: int, classes: int) -> tuple[nn.Module, ...]:
    """The end of AlexNet and of VGG-19."""
    return (
        *(nn.Flatten(), nn.Linear(read, made), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(made, made), nn.ReLU(), nn.Dropout()),
        nn.Linear(made, classes),
        *_classify(),
    )


def _alexnet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 96, 11, 4), nn.ReLU(), _pool(3, 2), nn.LocalResponseNorm(5)),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), _pool(3, 2)),
        nn.LocalResponseNorm(5),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), _pool(3, 2)),
        *_dense(256 * 6 * 6, 4096, 1000),
    )


def _vgg19() -> nn.Module:
    stages = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
    layers: list[nn.Module] = []
    read = 3
    for made, count in stages:
        for _ in range(count):
            layers += [nn.Conv2d(read, made, 3, padding=1), nn.ReLU()]
            read = made
        layers.append(_pool(2, 2))
    return nn.Sequential(*layers, *_dense(512 * 7 * 7, 4096, 1000))


def _deepface() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 11), _pool(3, 2), nn.Conv2d(32, 16, 9)),
        LocallyConnected((16, 16), size=63, kernel=9),
        LocallyConnected((16, 16), size=55, kernel=7, stride=2),
        LocallyConnected((16, 16), size=25, kernel=5),
        *(nn.Flatten(), nn.Linear(16 * 21 * 21, 4096), nn.Linear(4096, 83)),
        *_classify(),
    )


def _lenet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), _pool(2, 2), nn.Conv2d(20, 50, 5), _pool(2, 2)),
        *(nn.Flatten(), nn.Linear(50 * 4 * 4, 500), nn.ReLU(), nn.Linear(500, 10)),
        *_classify(),
    )


def _kaldi() -> nn.Module:
    hidden = (part for read in (440, *[2048] * 5) for part in (nn.Linear(read, 2048), nn.Sigmoid()))
    return nn.Sequential(*hidden, nn.Linear(2048, 1706))


def _senna(features: int, tags: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 300), nn.Hardtanh(), nn.Linear(300, tags))


@dataclass(frozen=True)
class Application:
    """What is asked, and how.

    Args:
        network: Makes the network, with untrained weights.
        shape: Of the float32 input of one query.
        layers: How many the paper counts.
        image_nbytes: The size of the image file that the paper's client sends, if it sends one.
    """

    name: str
    title: str
    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    layers: int
    image_nbytes: int | None = None

    def build(self) -> tuple[nn.Module, Tensor]:
        """The network and an input, the same in every run."""
        generator = torch.Generator().manual_seed(_SEED)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            return self.network().eval(), torch.rand(self.shape, generator=generator)


def _applications() -> Iterator[Application]:
    image = (1, 3, 227, 227)
    yield Application("IMC", "AlexNet", _alexnet, image, 24, image_nbytes=152_000)
    yield Application("VGG", "VGG-19", _vgg19, (1, 3, 224, 224), 46)
    yield Application("FACE", "DeepFace", _deepface, (1, 3, 152, 152), 10)
    yield Application("DIG", "LeNet", _lenet, (100, 1, 28, 28), 9)
    yield Application("ASR", "Kaldi", _kaldi, (548, 440), 13)
    yield Application("POS", "SENNA", lambda: _senna(300, 45), (28, 300), 3)
    yield Application("CHK", "SENNA", lambda: _senna(300, 42), (28, 300), 3)
    yield Application("NER", "SENNA", lambda: _senna(375, 17), (28, 375), 3)


APPLICATIONS = tuple(_applications())
