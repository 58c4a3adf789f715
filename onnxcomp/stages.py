"""What is being done now, for whoever listens: the command line's progress display."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str], None]
# Gets the samples done, and how many there are where that is known.
Progress = Callable[[int, int | None], None]

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


def stage(name: str) -> None:
    """Say that something begins: `loading`, the name of a pass."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(name)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send every stage of the block to a function."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)
