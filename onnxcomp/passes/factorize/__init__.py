"""Passes that put two or three small layers in the place of a large one: low rank."""
