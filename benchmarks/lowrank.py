"""Low rank compared: the forms of convolutions, products by outputs or weights, and repair.

    python benchmarks/lowrank.py                           # this repository's digits models
    python benchmarks/lowrank.py --corpus FOLDER --models crnn_en_g2,minilm_l3

Models start from their lossless form. *Asked* is the share of the MACs in reach that is to go; what
is not measured to be faster stays as it is. A corpus is a folder as benchmarks/int8.py has it. The
page goes to stdout, progress to stderr; `--write` also puts it into docs/benchmarks/lowrank.md.
"""

from __future__ import annotations

import sys
from contextlib import suppress

import onnx_ir as ir
from _curves import Compress, Compressor, by_pass, compare

from onnxcomp.calibration.samples import Samples
from onnxcomp.errors import ContractError

SHARES = (0.3, 0.5, 0.6, 0.7, 0.8)
SOME = (0.3, 0.6)


def _both(kind: str = "auto", method: str = "auto", *, repair: bool = True) -> Compress:
    """Return what factorizes convolutions in a form, then products by a method."""
    first = by_pass("factorize-conv", "ratio", kind=kind, repair=repair)
    second = by_pass("factorize-gemm", "ratio", method=method, repair=repair)

    def compress(model: ir.Model, samples: Samples, ratio: float) -> ir.Model:
        for each in (first, second):
            with suppress(ContractError):  # it has no layers that could lose so much
                model = each(model, samples, ratio)
        return model

    return compress


FACTORIZERS = (
    Compressor("outputs, fitted", _both(), SHARES),
    Compressor("outputs", _both(repair=False), SOME),
    Compressor("k x k then 1 x 1", _both("channel"), SOME),
    Compressor("k x 1 then 1 x k", _both("spatial"), SOME),
    Compressor("1 x 1, k x k, 1 x 1", _both("tucker"), SOME),
    Compressor("products by weights", _both(method="weights"), SOME),
)

if __name__ == "__main__":
    sys.exit(compare("lowrank", __doc__ or "", FACTORIZERS, "digits_cnn,digits_resnet", []))
