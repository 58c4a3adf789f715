"""Rewrites that merge neighbouring nodes into one."""
