"""Low rank compared: the forms of convolutions, products by outputs or weights, and repair.

    python benchmarks/lowrank.py                           # this repository's classifiers
    python benchmarks/lowrank.py --corpus FOLDER --models crnn_en_g2,minilm_l3

Models start from their lossless form. *Asked* is the share of the MACs in reach that is to go; what
is not measured to be faster stays as it is, but where the label says *smaller*. A corpus is a
folder as benchmarks/int8.py has it. The page goes to stdout, progress to stderr; `--write` also
puts it into docs/benchmarks/lowrank.md.
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
FAR = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)


def _both(
    kind: str = "auto", method: str = "auto", *, repair: bool = True, smaller: bool = False
) -> Compress:
    """Return what factorizes convolutions in a form, then products by a method."""
    options = {"repair": repair, "smaller": smaller}
    first = by_pass("factorize-conv", "ratio", kind=kind, **options)
    second = by_pass("factorize-gemm", "ratio", method=method, **options)
    return _in_turn(first, second)


def _products(method: str = "auto", *, repair: bool = True) -> Compress:
    """Return what factorizes products alone, where they become smaller."""
    options = {"method": method, "repair": repair, "smaller": True}
    return _in_turn(by_pass("factorize-gemm", "ratio", **options))


def _in_turn(*steps: Compress) -> Compress:

    def compress(model: ir.Model, samples: Samples, ratio: float) -> ir.Model:
        for each in steps:
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
    Compressor("outputs, fitted, smaller", _both(smaller=True), FAR),
    Compressor("products alone, fitted, smaller", _products(), FAR),
    Compressor("products alone by weights, smaller", _products("weights", repair=False), FAR),
)
MODELS = "digits_cnn,digits_mlp,digits_resnet,scans_vgg"

NOTE = """ A
share is asked of convolutions and of products each; where one of them cannot lose so much, it stays
as it is, and where the only product is a head, the head alone has to."""

if __name__ == "__main__":
    sys.exit(compare("lowrank", __doc__ or "", FACTORIZERS, MODELS, [], NOTE))
