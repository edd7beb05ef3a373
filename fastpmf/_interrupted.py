"""Ctrl-C while the command line is still being imported ends it as later, with one line and exit code 130."""

import os
import sys
from types import TracebackType

INTERRUPTED = 130  # as shells have it: 128 and the number of the signal


def is_command_line() -> bool:
    """Whether this process runs `fastpmf` or `python -m fastpmf`, as far as is known before either is imported."""
    name = os.path.basename(sys.argv[0] if sys.argv else "")
    if name == "-m":  # what is to be run is still being looked for
        return "fastpmf" in sys.orig_argv
    return name.removesuffix(".exe") in ("fastpmf", "fastpmf-script.py")


def say_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook` of the command line."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write("fastpmf: interrupted, nothing was written\n")
    raise SystemExit(INTERRUPTED)


if is_command_line():
    sys.excepthook = say_interrupted
