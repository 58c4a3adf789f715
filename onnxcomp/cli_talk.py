"""What the command line says besides the answer: progress, errors in one line, exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from onnxcomp.errors import OnnxcompError

if TYPE_CHECKING:
    from onnxcomp.stages import Progress


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn every failure into one line on stderr and an exit code; never a traceback."""
    try:
        yield
    except OnnxcompError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("interrupted; nothing was written", err=True)
        sys.exit(130)
    except (click.ClickException, click.exceptions.Exit, SystemExit, BrokenPipeError):
        raise  # click ends quietly when a pipe is closed, as by `| head`
    except MemoryError:
        click.echo("error: out of memory; nothing was written", err=True)
        sys.exit(2)
    except Exception as error:
        if os.environ.get("ONNXCOMP_DEBUG"):
            raise
        text = " ".join(str(error).split())[:300]
        click.echo(
            f"internal error: {type(error).__name__}: {text}; nothing was written. "
            "Please report it (ONNXCOMP_DEBUG=1 shows where).",
            err=True,
        )
        sys.exit(2)


class SafeGroup(click.Group):
    """A group whose verbs report errors in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb behind the error boundary."""
        with one_line_errors():
            return super().invoke(ctx)


def speaker(*, quiet: bool) -> Callable[[str], None]:
    """Return the function that talks to the user on stderr."""
    return (lambda _: None) if quiet else (lambda text: click.echo(text, err=True))


@contextmanager
def progress(*, quiet: bool) -> Iterator[Progress | None]:
    """Show what takes long, on a terminal's stderr only; yield what counts the samples done."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    from onnxcomp.display import Display

    with Display(Console(stderr=True)) as display:
        yield display.samples
