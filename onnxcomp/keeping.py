"""What passes find out about each weight, kept beside the output until that is written.

Then a run that was killed goes on: the same command finds it there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

import onnxcomp
from onnxcomp.errors import ContractError, ModelError, OnnxcompError
from onnxcomp.journal import Journal, Record, Say, digest
from onnxcomp.stages import stage

__all__ = ["Record", "counting", "is_keeping", "is_kept", "keeping", "kept"]


@dataclass(eq=False)
class _Count:
    """How many weights of a pass are done, and how many of these an earlier run has left."""

    name: str
    total: int
    done: int = 0
    recalled: int = 0


@dataclass(eq=False)
class _Keeper:
    """The journal of this run, with what is known of its weights."""

    journal: Journal
    say: Say
    count: _Count | None = None
    digests: dict[tuple[object, ...], bytes] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)


_KEEPER: ContextVar[_Keeper | None] = ContextVar("keeper", default=None)


# ---------------------------------------------------------------- a run
@contextmanager
def keeping(path: Path | None, say: Say = lambda _: None) -> Iterator[None]:
    """Keep in a file what passes find out in the block, and delete it when that is over.

    It stays when the block is interrupted, or cannot write its output. An error in what was asked
    for (an option, a sample) leaves what was there before. None keeps nothing.
    """
    if path is None:
        yield
        return
    journal = Journal(path, say)
    token = _KEEPER.set(_Keeper(journal, say))
    try:
        yield
        journal.remove()
    except ContractError:  # the run came to its end: there is nothing to go on with
        journal.remove()
        raise
    except ModelError:  # a full disk, say
        raise
    except OnnxcompError:
        if journal.is_new:
            journal.remove()
        raise
    finally:
        journal.close()
        _KEEPER.reset(token)


# ---------------------------------------------------------------- what passes call
def kept(
    weight: ir.TensorProtocol, settings: Sequence[object], make: Callable[[], Record]
) -> Record:
    """Return what `make` gives for a weight: from the journal if it is there, else it is kept.

    `settings` are all that the record depends on beside the numbers of the weight, with a `repr`
    that is the same in every run. Only a weight that lies in a file is kept: others are small.
    """
    keeper = _keeper_of(weight)
    if keeper is None:
        return make()
    key = _key(keeper, weight, settings)
    found = keeper.journal.recall(key)
    recalled = found is not None and key in keeper.journal.earlier
    if not recalled:
        _say_recalled(keeper)
    if found is None:
        found = make()
        keeper.journal.append(key, found)
    _note(keeper, recalled=recalled)
    return found


def is_kept(weight: ir.TensorProtocol, settings: Sequence[object]) -> bool:
    """Say whether there is a record, so that what `make` would need need not be prepared."""
    keeper = _keeper_of(weight)
    return keeper is not None and keeper.journal.recall(_key(keeper, weight, settings)) is not None


def is_keeping(weights: Sequence[ir.TensorProtocol]) -> bool:
    """Say whether anything would be kept of some of these weights."""
    return any(_keeper_of(weight) is not None for weight in weights)


@contextmanager
def counting(name: str, total: int) -> Iterator[None]:
    """Say how many of so many weights are done, and how many of them an earlier run has left.

    Every `kept` in the block counts as one.
    """
    keeper = _KEEPER.get()
    if keeper is None:
        yield
        return
    keeper.count = _Count(name, total)
    try:
        yield
        _say_recalled(keeper)
    finally:
        keeper.count = None


def _keeper_of(weight: ir.TensorProtocol) -> _Keeper | None:
    return _KEEPER.get() if isinstance(weight, ir.ExternalTensor) else None


# ---------------------------------------------------------------- keys
def _key(keeper: _Keeper, weight: ir.TensorProtocol, settings: Sequence[object]) -> bytes:
    """Return the digest of all that a record depends on."""
    shape = tuple(weight.shape.numpy())
    parts = (onnxcomp.__version__, np.__version__, weight.dtype.name, shape, *settings)
    return digest(repr(parts).encode() + _digest_of(keeper, weight))


def _digest_of(keeper: _Keeper, weight: ir.TensorProtocol) -> bytes:
    """Return the digest of a weight's numbers, which is found once in a run."""
    assert isinstance(weight, ir.ExternalTensor)
    place = (str(weight.path), weight.offset, weight.nbytes)
    if place not in keeper.digests:
        # SHA-256 is in hardware on most machines, and then twice as fast as BLAKE2.
        data = np.ascontiguousarray(weight.numpy()).reshape(-1).view(np.uint8)
        keeper.digests[place] = hashlib.sha256(data.data).digest()
    return keeper.digests[place]


# ---------------------------------------------------------------- talk
def _note(keeper: _Keeper, *, recalled: bool) -> None:
    count = keeper.count
    if count is None:
        return
    count.done += 1
    count.recalled += recalled
    earlier = f", {count.recalled} from {keeper.journal.path}" if count.recalled else ""
    stage(f"{count.name}  {count.done} of {count.total} weights{earlier}")


def _say_recalled(keeper: _Keeper) -> None:
    """Say, once for a pass and when the first weight is new, how much of an earlier run is there.

    What follows is for this run to find out.
    """
    count = keeper.count
    if count is None or not count.recalled or count.name in keeper.said:
        return
    keeper.said.add(count.name)
    keeper.say(
        f"{count.name}: {count.recalled} of {count.total} weights from {keeper.journal.path}"
    )
