"""A container written back as the files that it was packed from."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from onnxcomp.container.layout import PackedFile
from onnxcomp.container.packed import Unpacked
from onnxcomp.container.reading import Container, open_container, pieces
from onnxcomp.errors import ModelError, UsageError
from onnxcomp.model_io import check_writable, scratch
from onnxcomp.stages import stage

READ = 1 << 20


def unpack(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Unpacked:
    """Write a container's model, and its weights files beside it, byte for byte as they were.

    The default is `<stem>.onnx` beside the container. Weights files keep their names, which the
    model holds. Nothing is put in place before all of it is checked. Raises `ModelError` for a
    damaged container, `UsageError` where another file would be lost.
    """
    started = time.perf_counter()
    source = Path(path)
    out = source.with_suffix(".onnx") if output is None else Path(output)
    with open_container(source) as container:
        check_writable(out, source)
        _check_free(container, out, asked=output is not None)
        try:
            with scratch(out.parent) as folder:
                parts = [folder / str(index) for index in range(len(container.files))]
                for part, file in zip(parts, container.files, strict=True):
                    _write(part, container, file)
                targets = _targets(container, out)
                for part, target in reversed([*zip(parts, targets, strict=True)]):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(part, target)
        except OSError as error:
            raise ModelError(f"cannot write {out}: {error.strerror or error}") from error
        return Unpacked(
            path=str(source),
            before=len(container.data),
            after=sum(file.size for file in container.files),
            written=tuple(str(target) for target in targets),
            seconds=time.perf_counter() - started,
        )


def _targets(container: Container, out: Path) -> list[Path]:
    return [out, *(out.parent / file.name for file in container.files[1:])]


def _check_free(container: Container, out: Path, *, asked: bool) -> None:
    """Refuse to write over another file, unless it is the one that was asked for."""
    targets = _targets(container, out)
    if any(target.resolve() == out.resolve() for target in targets[1:]):
        raise UsageError(f"{out} is the name of a weights file; choose another with -o")
    for target, file in zip(targets, container.files, strict=True):
        if (target == out and asked) or not os.path.lexists(target) or _is_same(target, file):
            continue
        what = "choose another file with -o" if target == out else "unpack into another folder"
        raise UsageError(f"{target} exists and is another file; {what}")


def _is_same(path: Path, file: PackedFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    digest = hashlib.sha256()
    with open(path, "rb") as data:
        while block := data.read(READ):
            digest.update(block)
    return digest.digest() == file.sha256


def _write(part: Path, container: Container, file: PackedFile) -> None:
    stage(f"unpacking {file.name or 'the model'}")
    with open(part, "wb") as out:
        for piece in pieces(container, file):
            out.write(piece)
