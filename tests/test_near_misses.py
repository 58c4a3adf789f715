"""Models that nearly are what a pass rewrites: it leaves them, or keeps their answers."""

from __future__ import annotations

import pytest

from case_pages import FOLDER, read_page
from near_misses import check_near_miss, read_near_misses
from onnxcomp.registry import list_passes

NAMES = [name for name, p in list_passes().items() if p.effect != "lossy" and name != "simplify"]


@pytest.mark.parametrize("name", NAMES)
def test_near_misses(name: str) -> None:
    for near in read_near_misses(read_page(FOLDER / f"{name}.md")):
        check_near_miss(near)
