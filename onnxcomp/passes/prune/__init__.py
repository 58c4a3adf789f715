"""Passes that take weights, channels or ranks out, and mend what that did."""
