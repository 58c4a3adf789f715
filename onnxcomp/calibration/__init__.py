"""Samples in, ranges out: what quantization learns from data."""
