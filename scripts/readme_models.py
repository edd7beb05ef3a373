"""What the tables of the studies of models are in the README; see `readme_kinds`."""

import math

import compare_models
import find_components
import model_costs
import recovery
import versus_hpf
from readme_kinds import Kind, Row, digits, groups


def models(rows: list[Row]) -> list[list[str]]:
    """compare_models.py: a column for each model, the best of a line in bold."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    lines = [["counts", "k", *names, "ml calls impossible"]]
    for (counts, k), own in groups(rows, "counts", "k").items():
        found = {row["model"]: float(row["mixed_log_likelihood"]) for row in own}
        told = [format(found[name], ".4f") if name in found else "-" for name in names]
        best = max(found, key=found.__getitem__)
        told = [f"**{cell}**" if name == best else cell for name, cell in zip(names, told, strict=True)]
        plain = {row["model"]: float(row["log_likelihood"]) for row in own}
        lines.append([counts, k, *told, "yes" if plain.get("ml", 0.0) == -math.inf else "no"])
    return lines


def hpf(rows: list[Row]) -> list[list[str]]:
    """versus_hpf.py: seconds per iteration, and the way to hpfrec's prediction."""
    lines = [["counts", "k", "fastpmf", "hpfrec", "explicit", "mu", "hpf / mu", "as near as hpfrec's best", "fastpmf"]]
    for (counts, k), own in groups(rows, "counts", "k").items():
        each = {row["method"]: float(row["seconds"]) for row in own if row["what"] == "iteration"}
        told = []
        for method in ("fastpmf", "hpfrec", "explicit", "mu"):
            told.append(f"{digits(1e3 * each[method])} ms" if method in each else "-")
            if method in ("hpfrec", "explicit") and method in each:
                told[-1] += f", {digits(each[method] / each['fastpmf'])}×"
        ways = [[row for row in own if (row["what"], row["method"]) == ("way", m)] for m in ("hpfrec", "fastpmf")]
        goal = max((float(row["held_out"]) for row in ways[0]), default=math.inf) - versus_hpf.NEAR
        near = [
            min((float(row["seconds"]) for row in way if float(row["held_out"]) >= goal), default=math.inf)
            for way in ways
        ]
        ratio = f", {digits(near[0] / near[1])}×" if near[0] < math.inf and near[1] < math.inf else ""
        told += [f"{each['fastpmf'] / each['mu']:.2f}", *(f"{digits(s)} s" if s < math.inf else "-" for s in near)]
        lines.append([counts, k, *told[:-1], told[-1] + ratio])
    return lines


def recovered(rows: list[Row]) -> list[list[str]]:
    """recovery.py: means over the draws."""
    lines = [["mean count", "what", "model", "level", "mean over draws", "too narrow by"]]
    for (mean, what, model, level), own in groups(rows, "mean_count", "what", "model", "level").items():
        value = sum(float(row["value"]) for row in own) / len(own)
        factor = [float(row["factor"]) for row in own if row["factor"]]
        narrow = f"{sum(factor) / len(factor):.1f}" if factor else "-"
        if level in ("", "0.9"):
            lines.append([f"{float(mean):g}", what, model, level or "-", f"{value:.2f}", narrow])
    return lines


def costs(rows: list[Row]) -> list[list[str]]:
    """model_costs.py: a column for each model."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    lines = [["counts", "k", "solver", *names]]
    for (counts, k, solver), own in groups(rows, "counts", "k", "solver").items():
        found = {row["model"]: f"{float(row['ratio']):.2f}" for row in own}
        lines.append([counts, k, solver, *(found.get(name, "-") for name in names)])
    return lines


def selected(rows: list[Row]) -> list[list[str]]:
    """find_components.py: how often each rule is right."""
    rules = ("recommended", "best", "most_similar")
    lines = [["true k", "draws", *(f"{rule.replace('_', ' ')}, exactly / within one" for rule in rules)]]
    for (k,), own in groups(rows, "true_k").items():
        off = [[abs(int(row[rule]) - int(k)) for row in own] for rule in rules]
        lines.append([k, str(len(own)), *(f"{o.count(0)} / {sum(x <= 1 for x in o)}" for o in off)])
    return lines


KINDS = [
    Kind(
        list(compare_models.Score._fields),
        "Log-likelihood of counts held out by thinning, a tenth, in nats per count, of rates that are 99 % the model's "
        "and 1 % without structure; and whether maximum likelihood by itself calls some of them impossible.",
        models,
    ),
    Kind(
        list(versus_hpf.Line._fields),
        "Milliseconds of an iteration of HPF, and how many times as long others take; `explicit` stores how each count "
        "is allotted, as scHPF does. "
        f"Then seconds to within {versus_hpf.NEAR} nats per held-out count of hpfrec's best; - where the iterations "
        "given did not do.",
        hpf,
    ),
    Kind(
        list(recovery.Line._fields),
        "Counts drawn from known factors: correlation of matched components with the truth, and the share of entries "
        "whose 90 % credible interval of HPF holds the true one; by what factor such intervals are too narrow.",
        recovered,
    ),
    Kind(
        list(model_costs.Line._fields),
        "Seconds of an iteration of each model over those of maximum likelihood, turn about, medians.",
        costs,
    ),
    Kind(
        list(find_components.Line._fields),
        "Counts drawn with a known number of components, chosen among those from some below to some above it: in how "
        "many draws `select_n_components` recommends the true one; what predicts best alone, and the number whose "
        "components splits agree on most, beside it.",
        selected,
    ),
]
