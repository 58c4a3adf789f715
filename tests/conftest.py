"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run, and no time limit per example: the machine may be busy.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
