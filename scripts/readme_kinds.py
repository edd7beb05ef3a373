"""What each study's table is in the README: its caption, and the few columns that are told of it."""

import math
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import compare_rivals
import compare_solvers
import compare_starts
import roofline
import scaling_study
import time_to_objective
import transform_speed
import versus_sklearn
from provenance import Table, rounded

LEVEL = 1e-3  # gap that solvers are timed to
Row = dict[str, str]


class Kind(NamedTuple):
    """Files with this header: what to say above their table, and how to make it."""

    header: list[str]
    caption: str
    make: Callable[[list[Row]], list[list[str]]]


def groups(rows: list[Row], *columns: str) -> dict[tuple[str, ...], list[Row]]:
    """Rows by what they have in these columns, in the order they come in."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[column] for column in columns), []).append(row)
    return found


def digits(x: float, n: int = 2) -> str:
    """At least `n` significant digits, and no more behind the point; a dash for what was never reached."""
    return f"{x:,.{max(0, n - 1 - math.floor(math.log10(x)))}f}" if 0 < x < math.inf else "-"


def middle(rows: list[Row], column: str) -> float:
    """Median over the rows."""
    return median(float(row[column]) for row in rows)


def first(rows: list[Row], column: str, at: float) -> float:
    """Seconds of the first point with no more than this in the column."""
    return min((float(row["seconds"]) for row in rows if float(row[column]) <= at), default=math.inf)


def iterations(rows: list[Row]) -> list[list[str]]:
    """versus_sklearn.py."""
    lines = [["counts", "k", "dtype", "fastpmf", "scikit-learn", "ratio", "objectives, nats", "peak MiB (predicted)"]]
    for row in rows:
        objectives = dict.fromkeys(f"{float(row[c]):,.1f}" for c in ("ours, nats", "sklearn, nats"))
        lines.append([row["counts"], row["k"], row["dtype"], f"{digits(float(row['ours, ms']))} ms"])
        lines[-1] += [f"{digits(float(row['sklearn, ms']))} ms", digits(float(row["ratio"])), " / ".join(objectives)]
        lines[-1] += [f"{float(row['peak MiB']):,.1f} ({float(row['predicted']):,.1f})"]
    return lines


def times(rows: list[Row]) -> list[list[str]]:
    """time_to_objective.py."""
    lines = [["counts", "k", "iterations", "fastpmf", "scikit-learn", "ratio"]]
    for (counts, k), own in groups(rows, "counts", "k").items():
        seconds = [f"{digits(middle(own, c))} s" for c in ("ours, s", "sklearn, s")]
        lines.append([counts, k, f"{middle(own, 'iterations'):.0f}", *seconds, digits(middle(own, "ratio"))])
    return lines


def solvers(rows: list[Row]) -> list[list[str]]:
    """compare_solvers.py."""
    names = list(dict.fromkeys(row["solver"] for row in rows))
    lines = [["counts", "k", "seconds each", *names, "lowest end", "mu ends higher by"]]
    for (counts, k), own in groups(rows, "counts", "k").items():
        reached, ends = dict.fromkeys(names, math.inf), {}
        for (name,), points in groups(own, "solver").items():
            fits = groups(points, "seed").values()
            reached[name] = median(first(fit, "gap_to_seed_best", LEVEL) for fit in fits)
            ends[name] = median(float(fit[-1]["objective"]) for fit in fits)
        lowest = min(ends, key=ends.__getitem__)
        told = [f"{digits(s)} s" if s < math.inf else "-" for s in reached.values()]
        higher = f"{ends['mu'] / ends[lowest] - 1:.1e}" if "mu" in ends else "-"
        budget = max(float(row["seconds"]) for row in own)
        lines.append([counts, k, f"{budget:.2g}", *told, f"{ends[lowest]:,.0f}, {lowest}", higher])
    return lines


def starts(rows: list[Row]) -> list[list[str]]:
    """compare_starts.py: a column for each solver, and for n_init; at its head the iterations that all did."""
    several = len(groups(rows, "init")) > 1
    strips = groups(rows, "solver", "n_init")
    heads = []
    for (solver, n_init), own in strips.items():
        done = {row["iterations"] for row in own}
        name = solver if n_init == "1" else f"{solver}, n_init={n_init}"
        heads.append(f"{name} ({int(*done):,})" if len(done) == 1 else name)
    lines = [["counts", "k", *(["start"] if several else []), *heads]]
    for (counts, k, init), own in groups(rows, "counts", "k", "init").items():
        found = groups(own, "solver", "n_init")
        lines.append([counts, k, *([init] if several else [])])
        for (solver, n_init), _ in strips.items():
            fits = found.get((solver, n_init), [])
            told = f"{middle(fits, 'objective'):,.0f}" if fits else "-"
            if fits and n_init != "1":
                single = {row["seed"]: float(row["seconds"]) for row in found[solver, "1"]}
                cost = median(float(row["seconds"]) / single[row["seed"]] for row in fits if row["seed"] in single)
                told += f", {digits(cost)} fits"
            lines[-1].append(told)
    return lines


def transforms(rows: list[Row]) -> list[list[str]]:
    """transform_speed.py."""
    lines = [["counts", "k", "rows", "tol", "fastpmf", "scikit-learn", "ratio", "objectives, nats", "certified gap"]]
    for row in rows:
        told = [row["counts"], row["k"], f"{int(row['rows']):,}", f"{float(row['tol']):g}"]
        told += [f"{digits(float(row[c]))} s" for c in ("seconds", "sklearn_seconds")]
        objectives = (f"{float(row[c]):,.1f}" for c in ("objective", "sklearn_objective"))
        told += [digits(float(row["ratio"])), " / ".join(objectives), digits(float(row["gap_per_1000"]))]
        lines.append(told)
    return lines


def scaling(rows: list[Row]) -> list[list[str]]:
    """scaling_study.py."""
    lines = [["study", "value", "shape", "nonzeros", "k", "threads", "mu, ns", "cd, ns", "peak (predicted)"]]
    for row in rows:
        varies = scaling_study.VARIES.get(row["study"], row["study"])
        value = float(row[varies])
        shape = f"{int(row['n_rows']):,} × {int(row['n_columns']):,}"
        nnz = rounded(int(row["nnz"]))
        lines.append([row["study"], nnz if varies == "nnz" else f"{value:.3g}", shape, nnz])
        lines[-1] += [row["k"], row["threads"]]
        lines[-1] += [digits(float(row[f"{name}_ns_per_nonzero"])) for name in ("mu", "cd")]
        peak, predicted = (memory(row[c]) for c in ("peak_bytes", "predicted_peak_bytes"))
        lines[-1].append(peak if peak == predicted == "-" else f"{peak} ({predicted})")
    return lines


def memory(cell: str) -> str:
    """Bytes in MiB, or GiB; a dash for what was not measured."""
    if not cell:
        return "-"
    mib = float(cell) / 2**20
    return f"{digits(mib / 2**10)} GiB" if mib >= 2**10 else f"{digits(mib)} MiB"


def kernels(rows: list[Row]) -> list[list[str]]:
    """roofline.py: its kernels, each on both sides, together."""
    lines = [["kernel", "side", "k", "dtype", "threads", "ns", "bound", "fraction of it"]]
    for own in groups([row for row in rows if row["kind"] == "kernel"], "name").values():
        for row in own:
            told = [row[column] for column in ("name", "side", "k", "dtype", "threads")]
            lines.append([*told, digits(float(row["ns_per_row"])), row["bound"], f"{float(row['fraction']):.2f}"])
    return lines


def rivals(rows: list[Row]) -> list[list[str]]:
    """compare_rivals.py."""
    lines = [["counts", "k", "package", "problem", "threads", "dtype", "lowest objective, nats", "above the best by"]]
    lines[0] += ["after", "fastpmf there after", "ratio"]
    for (counts, k), own in groups(rows, "counts", "k").items():
        fits = groups(own, "rival", "version")
        ours = [row for (name, _), fit in fits.items() for row in fit if name == "fastpmf" and row["objective"]]
        for (name, version), fit in fits.items():
            one, points = fit[0], [row for row in fit if row["objective"]]
            told = [counts, k, f"{name} ({version})", one["problem"], one["threads"], one["dtype"]]
            if points:
                best = min(points, key=lambda row: float(row["objective"]))
                theirs, mine = (first(p, "objective", float(best["objective"])) for p in (points, ours))
                star = "*" if any(float(row["weight"]) for row in points) else ""
                told += [f"{float(best['objective']):,.0f}{star}", f"{float(best['gap']):.1e}", f"{digits(theirs)} s"]
                told += [f"{digits(mine)} s" if mine < math.inf else "never", digits(theirs / mine)]
            else:
                told += [f"failed: {fit[-1]['error']}", *["-"] * 4]
            lines.append(told)
    return lines


def as_it_is(table: Table) -> Kind:
    """Every column."""

    def shown(cell: str) -> str:
        try:
            number = float(cell)
        except ValueError:
            return cell
        return f"{number:,.0f}" if number.is_integer() else f"{number:.3g}"

    def make(rows: list[Row]) -> list[list[str]]:
        return [table.columns, *([shown(row[column]) for column in table.columns] for row in rows)]

    return Kind(table.columns, "", make)


KINDS = [
    Kind(
        versus_sklearn.HEAD,
        "One multiplicative iteration of both factors, from the same start, medians of several turns; the objectives "
        "after five iterations, once where they are the same; and the peak memory of a fit.",
        iterations,
    ),
    Kind(
        time_to_objective.HEAD,
        "Seconds to where scikit-learn's 200 multiplicative iterations end, from the same random starts, medians over "
        "them; iterations are fastpmf's.",
        times,
    ),
    Kind(
        compare_solvers.COLUMNS,
        f"Seconds to within {LEVEL:g} of the lowest objective that any of the solvers found from a start, medians over "
        "the starts, a dash where it did not get there; +x is extrapolated.",
        solvers,
    ),
    Kind(
        list(compare_starts.Fit._fields),
        "Where each solver ends after so many iterations, in nats, medians over the starts; the last column of a "
        "solver is the best of n_init starts, and what they take in the seconds of a single fit.",
        starts,
    ),
    Kind(
        list(transform_speed.Point._fields),
        "Seconds to find W for rows that were not fitted, H fixed: `transform` at each tol, in nats per count, and "
        "scikit-learn with its defaults, medians of several turns; the objectives of both, and the certified gap "
        "of fastpmf's, in nats per 1,000 counts.",
        transforms,
    ),
    Kind(
        compare_rivals.COLUMNS,
        "Where each package comes to in the same time, scored by one objective: its lowest, how far above the best of "
        "all, after how many seconds, and after how many fastpmf is as low. A star marks factors that had rates of 0 "
        "under positive counts and were scored with one component more.",
        rivals,
    ),
    Kind(
        list(scaling_study.Point._fields),
        "Nanoseconds per nonzero of one iteration, of all threads together, and the peak memory of a fit above its "
        "input, beside what `fastpmf.plan` predicts, with the most threads; a study varies what it is named after, "
        "weak the threads and with them the nonzeros.",
        scaling,
    ),
    Kind(
        list(roofline.Point._fields),
        "Nanoseconds per nonzero of each kernel, the bound of the machine that applies to it, and the least seconds "
        "that this bound allows, as a fraction of the kernel's.",
        kernels,
    ),
]
