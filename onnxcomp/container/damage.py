"""How a container that cannot be trusted is refused, and a reader that never reads past its end."""

from __future__ import annotations


class DamageError(Exception):
    """What a container says does not hold; who knows the file's name makes it a `ModelError`."""


class Cursor:
    """Reads bytes in order and refuses to read past the last."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    @property
    def left(self) -> int:
        """Return the bytes that are not read yet."""
        return len(self._data) - self._at

    def take(self, size: int) -> memoryview:
        """Return the next `size` bytes."""
        if size > self.left:
            raise DamageError(f"{size} bytes are announced where {self.left} are left")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        """Return the next unsigned little-endian integer of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def end(self) -> None:
        """Refuse bytes that nothing has read."""
        if self.left:
            raise DamageError(f"{self.left} bytes are left over")
