"""Ctrl-C while the command line is still importing: one line and exit code 130, as at any later time."""

import os
import sys
from types import TracebackType

INTERRUPTED = 130  # 128 plus the number of the signal, the convention of shells


def is_command_line() -> bool:
    """Whether this process runs `fastpmf` or `python -m fastpmf`, judged by its arguments."""
    name = os.path.basename(sys.argv[0] if sys.argv else "")
    if name == "-m":  # while Python is looking for the module to run
        return "fastpmf" in sys.orig_argv
    return name.removesuffix(".exe") in ("fastpmf", "fastpmf-script.py")


def say_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Replace the traceback of a KeyboardInterrupt; used as `sys.excepthook` of the command line."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write("fastpmf: interrupted, nothing was written\n")
    raise SystemExit(INTERRUPTED)


if is_command_line():
    sys.excepthook = say_interrupted
