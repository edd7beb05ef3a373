"""The command line, `fastpmf COMMAND`. It parses, calls and prints: results to standard output, the rest to error."""

import os
import sys
import warnings
from collections.abc import Sequence

from sklearn.exceptions import ConvergenceWarning

from fastpmf.cli.parser import parser_of_commands
from fastpmf.cli.telling import say

OK, BAD_INPUT, INTERRUPTED, NOBODY_READS = 0, 2, 130, 141  # as shells have them: 128 and the number of the signal


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 bad input, 130 interrupted, 141 nobody reads on."""
    arguments = parser_of_commands().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", ConvergenceWarning)
            warnings.filterwarnings(
                "ignore", r"Stopped at max_(iter|time)", ConvergenceWarning
            )  # a fit's status line says it
            warnings.showwarning = lambda message, *_, **__: say(f"fastpmf: warning: {message}")
            arguments.run(arguments)
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains as it ends
        return NOBODY_READS
    except (ValueError, TypeError, OSError, MemoryError, ImportError) as error:
        say(f"fastpmf: error: {error}")
        return BAD_INPUT
    except KeyboardInterrupt:
        say(f"fastpmf: interrupted, {getattr(arguments, 'kept', 'nothing was written')}")
        return INTERRUPTED
    return OK
