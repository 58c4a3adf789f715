"""Channel pruners compared: ours with and without repair, and onnxsim's, at several strengths.

    python benchmarks/pruning.py                           # this repository's digits models
    python benchmarks/pruning.py --corpus FOLDER --models efficientnet_lite0,minilm_l3

Models start from their lossless form. *Asked* is the share of MACs that is to go, of onnxsim its
`sparsity`. A corpus is a folder as benchmarks/int8.py has it. The page goes to stdout, progress to
stderr; `--write` also puts it into docs/benchmarks/pruning.md. onnxsim is compared where it is
installed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import onnx_ir as ir
from _curves import Compress, Compressor, by_pass, compare

from onnxcomp.calibration.samples import Samples

if TYPE_CHECKING:
    import onnx

DIGITS = "digits_cnn,digits_mlp,digits_resnet,digits_mobile"


def _ours(criterion: str, *, repair: bool) -> Compress:
    return by_pass("prune-channels", "ratio", criterion=criterion, repair=repair)


def _onnxsim(model: ir.Model, _: Samples, sparsity: float) -> ir.Model:
    import onnxsim

    proto: onnx.ModelProto = onnxsim.apply_structured_pruning(ir.to_proto(model), sparsity)
    return ir.from_proto(proto)


SHARES = (0.03, 0.1, 0.2, 0.3, 0.4, 0.5)
SOME = (0.1, 0.3, 0.5)
PRUNERS = (
    Compressor("obs, repaired", _ours("obs", repair=True), SHARES),
    Compressor("l2, repaired", _ours("l2", repair=True), SOME),
    Compressor("obs", _ours("obs", repair=False), SOME),
    Compressor("l2", _ours("l2", repair=False), SOME),
    Compressor("random", _ours("random", repair=False), SOME),
    Compressor("onnxsim", _onnxsim, (0.1, 0.2, 0.25, 0.3, 0.5), "onnxsim"),
)

if __name__ == "__main__":
    sys.exit(compare("pruning", __doc__ or "", PRUNERS, DIGITS, ["onnxsim"]))
