"""Models that nearly are what a pass rewrites: it leaves them, or keeps their answers."""

from __future__ import annotations

import pytest

from case_pages import FOLDER, read_page
from lossless import every_pass
from near_misses import check_near_miss, read_near_misses


@pytest.mark.parametrize("name", every_pass())
def test_near_misses(name: str) -> None:
    for near in read_near_misses(read_page(FOLDER / f"{name}.md")):
        check_near_miss(near)
