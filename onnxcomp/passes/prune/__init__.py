"""Passes that remove weights or channels."""
