"""Rewrites that compute at compile time what does not depend on inputs."""
