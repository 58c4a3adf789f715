"""Passes that take weights or channels out, and mend what that did."""
