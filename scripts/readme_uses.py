"""What the tables of the studies of formats and pipelines are in the README; see `readme_kinds`."""

import cnmf_pipeline
import read_times
from readme_kinds import Kind, Row, digits, groups


def formats(rows: list[Row]) -> list[list[str]]:
    """read_times.py: ratios alone, since machines and their disks differ; a dash where the incumbent is missing."""
    lines = [["counts", "format", "MiB", "beside", "as fast", "peak MiB", "its peak MiB"]]
    for row in rows:
        known = row["incumbent_seconds"] not in ("", "nan")
        told = [f"{float(row['ratio']):.2f}×" if known else "-", f"{float(row['peak_mib']):,.0f}"]
        told.append(f"{float(row['incumbent_peak_mib']):,.0f}" if known else "-")
        beside = row["incumbent"].replace("_", r"\_")
        lines.append([row["counts"], row["format"], f"{float(row['file_mib']):,.0f}", beside, *told])
    return lines


def pipelines(rows: list[Row]) -> list[list[str]]:
    """cnmf_pipeline.py: a column for each run; single replicates are left out."""
    runs = list(dict.fromkeys(row["run"] for row in rows if row["what"] != cnmf_pipeline.AGAIN))
    runs += list(dict.fromkeys(row["run"] for row in rows if row["run"] not in runs))
    lines = [["counts", "k", "what", "measure", *runs]]
    for (counts, k, what, measure), own in groups(rows, "counts", "k", "what", "measure").items():
        if what.startswith("replicate "):
            continue
        found = {row["run"]: float(row["value"]) for row in own}
        told = [f"{found[run]:.4f}".rstrip("0").rstrip(".") if run in found else "-" for run in runs]
        if measure == "seconds":
            ratio = {run: f", {digits(found[runs[0]] / found[run])}×" for run in found if run != runs[0]}
            told = [f"{digits(found[run])} s{ratio.get(run, '')}" if run in found else "-" for run in runs]
        lines.append([counts, k, what, measure, *told])
    return lines


KINDS = [
    Kind(
        list(read_times.Line._fields),
        "Reading counts from files: how many times as fast as the library that people read the format with, both from "
        "the system's memory, turn about, medians; and the peak memory of both.",
        formats,
    ),
    Kind(
        list(cnmf_pipeline.Line._fields),
        "cNMF's pipeline with the Kullback-Leibler loss, on scikit-learn and on fastpmf: seconds of each step, how "
        "near its fits come, in nats per count (mixed: of rates that are 1 % without structure), and how alike "
        "programs are. The same usages are given to the last refit; `reported` is scikit-learn's own loss.",
        pipelines,
    ),
]
