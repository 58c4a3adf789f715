"""The models that PyTorch trains or initializes; plain layers, so that the export is plain too."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 256
POSITIONS = 128


def conv_bn(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    """Return a convolution without bias and the batch normalization after it."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def conv_bn_relu(inputs: int, outputs: int) -> nn.Module:
    """Return a 3x3 convolution, batch normalization and Relu."""
    return nn.Sequential(conv_bn(inputs, outputs), nn.ReLU())


def pooled_classifier(width: int) -> nn.Module:
    """Return global average pooling and the layer that gives ten logits."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def cnn() -> nn.Module:
    """Return a plain convolutional network."""
    return nn.Sequential(
        conv_bn_relu(1, 32),
        conv_bn_relu(32, 64),
        conv_bn_relu(64, 64),
        nn.MaxPool2d(2),
        conv_bn_relu(64, 128),
        pooled_classifier(128),
    )


def mlp() -> nn.Module:
    """Return three fully connected layers."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


class Residual(nn.Module):
    """A basic block: two convolutions, and a 1x1 shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_bn(inputs, outputs, stride=stride)
        self.second = conv_bn(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's answer to its shortcut."""
        inner: Tensor = self.second(functional.relu(self.first(x)))
        return functional.relu(inner + self.shortcut(x))


def resnet() -> nn.Module:
    """Return a residual network of three blocks, the second strided."""
    return nn.Sequential(
        conv_bn_relu(1, 32),
        Residual(32, 32),
        Residual(32, 64, stride=2),
        Residual(64, 64),
        pooled_classifier(64),
    )


class WrittenHardSwish(nn.Module):
    """Hard-swish as exporters wrote it before the operator existed: Add, Clip, Mul, Div."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x * clip(x + 3, 0, 6) / 6."""
        return x * torch.clamp(x + 3, 0.0, 6.0) / 6


class Inverted(nn.Module):
    """An inverted residual: 1x1 expansion, depthwise 3x3, linear 1x1 projection."""

    def __init__(
        self, inputs: int, outputs: int, activation: type[nn.Module], stride: int = 1
    ) -> None:
        super().__init__()
        wide = 3 * inputs
        self.expand = nn.Sequential(conv_bn(inputs, wide, 1), activation())
        self.depthwise = nn.Sequential(conv_bn(wide, wide, 3, stride, wide), activation())
        self.project = conv_bn(wide, outputs, 1)
        self.joins = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Add the projection to the input where the shapes agree."""
        projected: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + projected if self.joins else projected


def mobile() -> nn.Module:
    """Return a depthwise-separable network with Relu6 first and hard-swish later."""
    return nn.Sequential(
        nn.Sequential(conv_bn(1, 32), nn.ReLU6()),
        Inverted(32, 32, nn.ReLU6),
        Inverted(32, 48, nn.ReLU6, stride=2),
        Inverted(48, 48, WrittenHardSwish),
        Inverted(48, 64, nn.Hardswish),
        nn.Sequential(conv_bn(64, 128, 1), WrittenHardSwish()),
        pooled_classifier(128),
    )


class UNet(nn.Module):
    """Two levels down by MaxPool, one up by ConvTranspose and one by Resize, skips joined."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = nn.Sequential(conv_bn_relu(1, 16), conv_bn_relu(16, 16))
        self.inner = nn.Sequential(nn.MaxPool2d(2), conv_bn_relu(16, 32), conv_bn_relu(32, 32))
        self.bottom = nn.Sequential(nn.MaxPool2d(2), conv_bn_relu(32, 64))
        up = nn.ConvTranspose2d(64, 32, 2, stride=2, bias=False)
        self.up = nn.Sequential(up, nn.BatchNorm2d(32), nn.ReLU())
        self.inner_join = conv_bn_relu(64, 32)
        self.outer_join = conv_bn_relu(48, 16)
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return how likely each pixel is ink."""
        outer = self.outer(image)
        inner = self.inner(outer)
        joined = self.inner_join(torch.cat([self.up(self.bottom(inner)), inner], 1))
        grown = functional.interpolate(joined, scale_factor=2.0, mode="nearest")
        return torch.sigmoid(self.head(self.outer_join(torch.cat([grown, outer], 1))))


class Attention(nn.Module):
    """Multi-head attention with a matrix each for query, key, value and output."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (
            nn.Linear(width, width) for _ in range(4)
        )

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Attend; `bias` is very negative where a key is padding."""
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        query = self.query(x).view(split).permute(0, 2, 1, 3)  # [N, heads, S, d]
        key = self.key(x).view(split).permute(0, 2, 3, 1)  # [N, heads, d, S]
        value = self.value(x).view(split).permute(0, 2, 1, 3)
        scores = torch.matmul(query, key) / (width // self.heads) ** 0.5 + bias
        mixed = torch.matmul(torch.softmax(scores, -1), value).permute(0, 2, 1, 3)
        answer: Tensor = self.output(mixed.reshape(batch, length, width))
        return answer


class EncoderLayer(nn.Module):
    """Attention and a feed-forward net with GELU, each added and normalized."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.attention_norm = nn.LayerNorm(width)
        self.grow, self.shrink = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Return the layer's answer, of the shape of `x`."""
        x = self.attention_norm(x + self.attention(x, bias))
        answer: Tensor = self.norm(x + self.shrink(functional.gelu(self.grow(x))))
        return answer


class Encoder(nn.Module):
    """A transformer encoder over token ids, and the mean of its states as an embedding."""

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(POSITIONS, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads) for _ in range(layers))
        for name, parameter in self.named_parameters():
            if "norm" in name:
                nn.init.normal_(parameter, float(name.endswith("weight")), 0.1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state of each token, and their mean over the tokens that are no padding."""
        mask = attention_mask.to(torch.float32)
        places = torch.arange(input_ids.shape[1])
        x = self.norm(self.tokens(input_ids) + self.positions(places))
        for layer in self.layers:
            x = layer(x, (1.0 - mask[:, None, None, :]) * -10000.0)
        weights = mask[:, :, None]
        return x, (x * weights).sum(1) / weights.sum(1)


class Recurrent(nn.Module):
    """A bidirectional LSTM whose mean state is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 64, bidirectional=True)
        self.head = nn.Linear(128, 10)

    def forward(self, frames: Tensor) -> Tensor:
        """Return ten logits for each sequence of `frames`, [S, N, 32]."""
        states, _ = self.lstm(frames)
        logits: Tensor = self.head(states.mean(0))
        return logits
