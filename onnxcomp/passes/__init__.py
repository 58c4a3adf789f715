"""Passes: one function in one file each, found by a walk of this folder."""
