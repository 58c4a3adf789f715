"""What a method may be told besides the histogram and the levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from onnxcomp.calibration.ranges import Range
from onnxcomp.calibration.thresholds.levels import Levels
from onnxcomp.calibration.thresholds.mass import Mass
from onnxcomp.graph import Array

# A function of single values, of any shape: what reads a tensor makes of it.
Consumer = Callable[[Array], Array]


@dataclass(frozen=True)
class Settings:
    """`percentile` in percent; `consumers` of the tensor, none standing for linear ones."""

    percentile: float = 99.99
    consumers: tuple[Consumer, ...] = ()

    def mirrored(self) -> Settings:
        """Return what holds for -x."""
        return replace(self, consumers=tuple(map(_mirrored, self.consumers)))


def identity(data: Array) -> Array:
    """Return what is given: the consumer that every linear one counts as."""
    return data


def _mirrored(consumer: Consumer) -> Consumer:
    return identity if consumer is identity else lambda data: consumer(-data)


# The upper end reaches at least as far from zero as the lower one does.
Method = Callable[[Mass, Levels, Settings], Range]
