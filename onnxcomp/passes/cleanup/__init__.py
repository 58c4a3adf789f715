"""Exact rewrites that remove what computes nothing."""
