"""The command line, `fastpmf COMMAND`. It parses, calls and prints: results to standard output, the rest to error."""

import argparse
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sklearn.exceptions import ConvergenceWarning

from fastpmf._interrupted import INTERRUPTED
from fastpmf.cli.parser import parser_of_commands
from fastpmf.cli.telling import say
from fastpmf.utils.progress import compilation_shown

# Those of signals are 128 plus the number of the signal, the convention of shells
OK, BAD_INPUT, NOBODY_READS, TERMINATED = 0, 2, 141, 143

# What sentences begin with, as options of commands
_FIRST = {
    "n_components": "--components",
    "n_init": "--n-init",
    "n_splits": "--splits",
    "n_threads": "--threads",
    "max_iter": "--max-iter",
    "max_time": "--max-time",
    "tol": "--tol",
    "n": "--top",
    "least": "--least",
    "layer": "--layer",
}
_OPTIONS = {
    "Seed must": "--seed must",
    "header=True": "--header",
    "header=False": "--no-header",
    "feature_types": "--feature-types",
    "feature_names must": "--feature-names must",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 bad input, 130 interrupted, 141 nobody reads on.

    A fit that stops at --max-iter or --max-time is done: its output says how far it got.

    SIGTERM, which batch systems send some time before they kill, is as Ctrl-C, with 143.
    """
    arguments = argparse.Namespace()
    terminated = []

    def terminate(*_: object) -> None:
        terminated.append(True)
        raise KeyboardInterrupt

    try:
        with _on(signal.SIGTERM, terminate), warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.simplefilter("always", ConvergenceWarning)
            warnings.filterwarnings(
                "ignore", r"Stopped at max_(iter|time)", ConvergenceWarning
            )  # a fit's status line says it
            warnings.showwarning = lambda message, *_, **__: say(f"fastpmf: warning: {_as_options(str(message))}")
            arguments = parser_of_commands().parse_args(argv)
            with compilation_shown(verbose=not getattr(arguments, "quiet", True)):
                arguments.run(arguments)
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains as it ends
        return NOBODY_READS
    except (ValueError, TypeError, OSError, MemoryError, ImportError) as error:
        kept = f"; {arguments.kept}" if hasattr(arguments, "kept") else ""
        say(f"fastpmf: error: {_sentence(error)}{kept}")
        return BAD_INPUT
    except KeyboardInterrupt:
        say(f"fastpmf: interrupted, {getattr(arguments, 'kept', 'nothing was written')}")
        return TERMINATED if terminated else INTERRUPTED
    return OK


def _sentence(error: BaseException) -> str:
    """The message of an error, without the error number of the operating system."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    return _as_options(str(error)) or type(error).__name__


def _as_options(sentence: str) -> str:
    """A message with the names of Python arguments replaced by those of command-line options."""
    for argument, option in _OPTIONS.items():
        sentence = sentence.replace(argument, option)
    first = re.match(r"\w+(?=[ =])", sentence)
    return _FIRST.get(first[0], first[0]) + sentence[first.end() :] if first else sentence


@contextmanager
def _on(number: int, call: Callable[..., None]) -> Iterator[None]:
    """What a signal does inside, unless whoever started this process had it ignored; only a main thread may say."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(number) is not signal.SIG_DFL:
        yield
        return
    signal.signal(number, call)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)
