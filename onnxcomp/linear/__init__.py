"""Layers that multiply by a constant weight: their matrices, and what flows through them."""
