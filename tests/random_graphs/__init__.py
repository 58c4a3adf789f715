"""Random legal models for property tests."""

from random_graphs.models import Drawn, models

__all__ = ["Drawn", "models"]
