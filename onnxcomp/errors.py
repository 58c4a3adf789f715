"""Errors that a user can act on: each message says what is wrong, where, and what to do."""

from __future__ import annotations


class OnnxcompError(Exception):
    """Any failure that the command line reports in one line, with exit code 2."""

    exit_code = 2


class UsageError(OnnxcompError):
    """An option, a pass name or a combination of them that makes no sense."""


class ModelError(OnnxcompError):
    """A model that cannot be read, run or written."""


class RecipeError(OnnxcompError):
    """A recipe that names what does not exist or sets what cannot be set."""


class SamplesError(OnnxcompError):
    """Calibration data that does not fit the model."""


class ContractError(OnnxcompError):
    """A result that breaks the contract, so that nothing was written (exit code 1)."""

    exit_code = 1
