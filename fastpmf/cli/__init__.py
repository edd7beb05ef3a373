"""The command line, `fastpmf COMMAND`: results go to standard output, everything else to standard error.

parser      commands and options
commands    what each command does
plots       what each `fastpmf plot NAME` does
reading     what they read
printing    what they print
"""

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sklearn.exceptions import ConvergenceWarning

from fastpmf.cli.printing import print_message
from fastpmf.utils.progress import compilation_shown

# After a signal 128 plus its number, by the convention of shells
OK, FAILED, BAD_INPUT, INTERRUPTED, BROKEN_PIPE, TERMINATED = 0, 1, 2, 130, 141, 143
_INPUT_ERRORS = (ValueError, TypeError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code.

    The exit code is 0 for success, 2 for invalid arguments and files, 1 for other failures, such as a missing library,
    a full disk or too little memory, 130 for Ctrl-C, 141 if the reader of standard output has closed it, and 143 for
    SIGTERM, which is handled like Ctrl-C. A fit that stops at --max-iter or --max-time is a success.
    """
    arguments = argparse.Namespace(prog="fastpmf")
    terminated = False

    def terminate(*_: object) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    try:
        with _signal_handler(signal.SIGTERM, terminate), warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.simplefilter("always", ConvergenceWarning)
            # The output of a fit states its status
            warnings.filterwarnings("ignore", r"Stopped at max_(iter|time)", ConvergenceWarning)
            warnings.showwarning = lambda message, *_, **__: print_message(f"fastpmf: warning: {message}")
            from fastpmf.cli.parser import make_parser  # takes a while, so Ctrl-C must already be handled

            arguments = make_parser().parse_args(argv)
            with compilation_shown(verbose=not getattr(arguments, "quiet", True)):
                arguments.run(arguments)
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it at exit
        return BROKEN_PIPE
    except (ValueError, TypeError, OSError, MemoryError, ImportError) as error:
        written = f"; {arguments.written}" if hasattr(arguments, "written") else ""
        print_message(f"{arguments.prog}: error: {_message(error)}{written}")
        return BAD_INPUT if isinstance(error, _INPUT_ERRORS) else FAILED
    except KeyboardInterrupt:
        print_message(f"{arguments.prog}: interrupted, {getattr(arguments, 'written', 'nothing was written')}")
        return TERMINATED if terminated else INTERRUPTED
    return OK


def _message(error: BaseException) -> str:
    """The message of an error, without the error number of the operating system."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__


@contextmanager
def _signal_handler(number: int, handler: Callable[..., None]) -> Iterator[None]:
    """Handle a signal inside, unless it has a handler or is ignored already; only the main thread can."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(number) is not signal.SIG_DFL:
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)
