"""What a method may be told besides the histogram and the levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    consumers: Sequence[Consumer] = ()

    def mirrored(self) -> Settings:
        """Return what holds for -x."""
        return replace(self, consumers=tuple(_mirrored(each) for each in self.consumers))


def _mirrored(consumer: Consumer) -> Consumer:
    return lambda data: consumer(-data)


# The upper end reaches at least as far from zero as the lower one does.
Method = Callable[[Mass, Levels, Settings], Range]
