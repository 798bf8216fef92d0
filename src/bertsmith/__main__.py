"""Entry point of ``bertsmith`` and ``python -m bertsmith``: runs the command line and words its failures."""

from __future__ import annotations

import contextlib
import errno
import os
import sys

import click

from bertsmith.catalogue.commands import show_error
from bertsmith.catalogue.translate import phrase, translated
from bertsmith.cli import cli
from bertsmith.errors import InputError, LostProcessError
from bertsmith.machine import limit_libraries


def main() -> None:
    """Run the command line; exit code 2 for what the user can mend, 130 after Ctrl-C, 1 when another process ended."""
    limit_libraries()
    for stream in (sys.stdout, sys.stderr):
        # Korean must print under any locale.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    # Under an ASCII locale arguments arrive as escaped bytes.
    sys.argv[1:] = [os.fsencode(argument).decode("utf-8", "replace") for argument in sys.argv[1:]]
    try:
        # Not cli.main(): it would answer a closed pipe with exit code 1 itself.
        with cli.make_context("bertsmith", sys.argv[1:]) as context:
            cli.invoke(context)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        show_error(error)
        sys.exit(2)
    except InputError as error:
        message = translated(error.message)
        _fail(f"{error.where}: {message}" if error.where else message)
    except LostProcessError as error:
        _fail(translated(str(error)), code=1)
    except (KeyboardInterrupt, click.Abort):
        print(phrase("interrupted"), file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone; nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EISDIR, errno.ENOTDIR):
            raise
        _fail(f"{error.filename or phrase('writing')}: {translated(error.strerror or str(error))}")
    except MemoryError:
        _fail(phrase("out of memory; try a smaller --batch-size, or --micro-batch-size"))


def _fail(message: str, code: int = 2) -> None:
    print(phrase("error: {1}", message), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
