"""Ctrl-C during the imports of the command line: a one-line message and exit code 130, as later."""

import os
import sys
from types import TracebackType

INTERRUPTED = 130  # 128 plus the signal number, as in shells


def is_command_line() -> bool:
    """Whether this process runs `fastpmf` or `python -m fastpmf`, according to its arguments."""
    name = os.path.basename(sys.argv[0] if sys.argv else "")
    if name == "-m":  # while Python searches for the module to run
        return "fastpmf" in sys.orig_argv
    return name.removesuffix(".exe") in ("fastpmf", "fastpmf-script.py")


def print_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook` of the command line: prints a message instead of the traceback of a KeyboardInterrupt."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write("fastpmf: interrupted, nothing was written\n")
    raise SystemExit(INTERRUPTED)


if is_command_line():
    sys.excepthook = print_interrupted
