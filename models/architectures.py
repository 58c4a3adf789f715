"""The models that PyTorch trains or initializes; plain layers, so that the export is plain too."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 256
POSITIONS = 128


class ConvBn(nn.Module):
    """A convolution without bias, the batch normalization after it, and an activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
        act: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation."""
        answer: Tensor = self.act(self.bn(self.conv(x)))
        return answer


def chain(**layers: nn.Module) -> nn.Module:
    """Return the layers in sequence, under these names."""
    return nn.Sequential(OrderedDict(layers))


def cnn() -> nn.Module:
    """Return a plain convolutional network."""
    return chain(
        conv1=ConvBn(1, 32),
        conv2=ConvBn(32, 64),
        conv3=ConvBn(64, 96),
        shrink=nn.MaxPool2d(2),
        conv4=ConvBn(96, 128),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        head=nn.Linear(128, 10),
    )


def mlp() -> nn.Module:
    """Return three fully connected layers."""
    return chain(
        flat=nn.Flatten(),
        fc1=nn.Linear(64, 256),
        relu1=nn.ReLU(),
        fc2=nn.Linear(256, 128),
        relu2=nn.ReLU(),
        head=nn.Linear(128, 10),
    )


def vgg(side: int, classes: int) -> nn.Module:
    """Return a VGG: pairs of 3x3 convolutions, and a dense head that holds most of the numbers."""
    return chain(
        conv1=ConvBn(1, 12),
        conv2=ConvBn(12, 12),
        pool1=nn.MaxPool2d(2),
        conv3=ConvBn(12, 24),
        conv4=ConvBn(24, 24),
        pool2=nn.MaxPool2d(2),
        conv5=ConvBn(24, 48),
        conv6=ConvBn(48, 48),
        pool3=nn.MaxPool2d(2),
        flat=nn.Flatten(),
        fc1=nn.Linear(48 * (side // 8) ** 2, 128),
        relu1=nn.ReLU(),
        drop1=nn.Dropout(0.3),
        fc2=nn.Linear(128, 64),
        relu2=nn.ReLU(),
        drop2=nn.Dropout(0.3),
        head=nn.Linear(64, classes),
    )


class Residual(nn.Module):
    """A basic block: two convolutions, and a 1x1 shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvBn(inputs, outputs, stride=stride)
        self.second = ConvBn(outputs, outputs, act=nn.Identity)
        self.shortcut = (
            nn.Identity()
            if inputs == outputs and stride == 1
            else ConvBn(inputs, outputs, 1, stride=stride, act=nn.Identity)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's answer to its shortcut."""
        inner: Tensor = self.second(self.first(x))
        return functional.relu(inner + self.shortcut(x))


def resnet() -> nn.Module:
    """Return a residual network of three blocks, the second strided."""
    return chain(
        stem=ConvBn(1, 32),
        block1=Residual(32, 32),
        block2=Residual(32, 64, stride=2),
        block3=Residual(64, 64),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        head=nn.Linear(64, 10),
    )


class WrittenHardSwish(nn.Module):
    """Hard-swish as exporters wrote it before the operator existed: Add, Clip, Mul, Div."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x * clip(x + 3, 0, 6) / 6."""
        return x * torch.clamp(x + 3, 0.0, 6.0) / 6


class Inverted(nn.Module):
    """An inverted residual: 1x1 expansion, depthwise 3x3, linear 1x1 projection."""

    def __init__(self, inputs: int, outputs: int, act: type[nn.Module], stride: int = 1) -> None:
        super().__init__()
        wide = 3 * inputs
        self.expand = ConvBn(inputs, wide, 1, act=act)
        self.depthwise = ConvBn(wide, wide, stride=stride, groups=wide, act=act)
        self.project = ConvBn(wide, outputs, 1, act=nn.Identity)
        self.joins = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Add the projection to the input where the shapes agree."""
        projected: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + projected if self.joins else projected


def mobile() -> nn.Module:
    """Return a depthwise-separable network with Relu6 first and hard-swish later."""
    return chain(
        stem=ConvBn(1, 32, act=nn.ReLU6),
        block1=Inverted(32, 32, nn.ReLU6),
        block2=Inverted(32, 48, nn.ReLU6, stride=2),
        block3=Inverted(48, 48, WrittenHardSwish),
        block4=Inverted(48, 64, nn.Hardswish),
        last=ConvBn(64, 128, 1, act=WrittenHardSwish),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        head=nn.Linear(128, 10),
    )


class UNet(nn.Module):
    """Two levels down by MaxPool, one up by ConvTranspose and one by Resize, skips joined."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = chain(conv1=ConvBn(1, 16), conv2=ConvBn(16, 16))
        self.inner = chain(pool=nn.MaxPool2d(2), conv1=ConvBn(16, 32), conv2=ConvBn(32, 32))
        self.bottom = chain(pool=nn.MaxPool2d(2), conv=ConvBn(32, 64))
        grow = nn.ConvTranspose2d(64, 32, 2, stride=2, bias=False)
        self.up = chain(grow=grow, bn=nn.BatchNorm2d(32), relu=nn.ReLU())
        self.inner_join = ConvBn(64, 32)
        self.outer_join = ConvBn(48, 16)
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
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

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
