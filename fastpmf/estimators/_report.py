"""A report on a fitted model: one HTML file with plots, which loads nothing and runs no scripts."""

import base64
import io
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import check_scalar

import fastpmf.plot as plot
from fastpmf._show_versions import collect_versions
from fastpmf._version import __version__
from fastpmf.analysis.dispersion import Overdispersion, is_affordable, overdispersion
from fastpmf.analysis.features import Quality, TopFeatures, topic_quality
from fastpmf.analysis.rates import check_groups_given, model_rates
from fastpmf.analysis.summary import component_shares, fit_facts
from fastpmf.core.counts import Side
from fastpmf.counts import MemoryCounts
from fastpmf.counts.labels import align
from fastpmf.fitting.options import FitData
from fastpmf.fitting.problem import vector
from fastpmf.plot._common import BLUE, GREY, component_colors, groups_of, hide_frame
from fastpmf.solvers import Status
from fastpmf.utils.extras import import_optional
from fastpmf.utils.files import atomic_write, check_folder
from fastpmf.utils.messages import brief
from fastpmf.utils.tables import escape, number, short_name, weight
from fastpmf.utils.validation import check_factor, check_matrix

_CALIBRATION_ENTRIES = 40_000_000  # rates that are computed for the calibration plot, about two seconds
_RESIDUAL_ENTRIES = 50_000_000  # nonzeros, above which residuals are those of a subset of the rows
_MIN_WEIGHT = 0.001  # probability of a distinctive feature; rarer ones have the highest lifts by chance
_LEGEND_COMPONENTS = 24  # the legend of more would be larger than the structure plot

# Browsers apply the policy to the whole page: no script, no request, whatever the names in it are
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --text: #1f2328; --muted: #59636e; --back: #ffffff; --line: #d1d9e0;
  --good: #1a7f37; --bad: #9a6700; --panel: #f6f8fa }}
@media (prefers-color-scheme: dark) {{
  :root {{ --text: #e6edf3; --muted: #9da7b3; --back: #0d1117; --line: #3d444d;
    --good: #3fb950; --bad: #d29922; --panel: #161b22 }}
}}
body {{ margin: 0 auto; max-width: 72rem; padding: 1.5rem; font: 15px/1.5 system-ui, sans-serif; color: var(--text);
  background: var(--back) }}
h1 {{ font-size: 1.6rem; line-height: 1.25; margin: 0 0 0.25rem; overflow-wrap: anywhere }}
h2 {{ font-size: 1.2rem; margin: 2.2rem 0 0.6rem; border-bottom: 1px solid var(--line); padding-bottom: 0.2rem }}
p {{ max-width: 50rem; margin: 0.5rem 0 }}
.muted {{ color: var(--muted) }}
.status {{ border-left: 4px solid var(--good); background: var(--panel); padding: 0.5rem 0.9rem; margin: 1rem 0 }}
.status.open {{ border-color: var(--bad) }}
.scroll {{ overflow-x: auto }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 0 2rem }}
table {{ border-collapse: collapse; font-size: 0.92rem }}
th, td {{ padding: 0.25rem 0.8rem 0.25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line) }}
th {{ font-weight: 600 }}
tbody th {{ font-weight: 400; color: var(--muted); white-space: nowrap }}
td {{ overflow-wrap: anywhere }}
td.number, th.number {{ text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }}
.components {{ width: 100% }}
.components tr:nth-child(odd) td {{ border-bottom: none; padding-bottom: 0 }}
td.features {{ padding-left: 1.2em; font-size: 0.87rem; line-height: 1.35; overflow-wrap: normal }}
.ranking {{ color: var(--muted); display: block; font-size: 0.85em }}
td.features small {{ color: var(--muted); margin-right: 0.6em }}
.swatch {{ display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.4em; border: 1px solid var(--line);
  vertical-align: -0.05em }}
.bar {{ display: inline-block; height: 0.7em; vertical-align: 0.05em }}
.share {{ display: inline-block; width: 4rem; text-align: left; margin-left: 0.6em }}
img {{ max-width: 100%; height: auto; background: #ffffff; border-radius: 4px }}
figure {{ margin: 0.8rem 0 }}
figcaption {{ color: var(--muted); max-width: 50rem }}
.changed {{ font-weight: 600 }}
@media (max-width: 45rem) {{
  body {{ padding: 1rem }}
  .share {{ display: none }}
  th.number {{ white-space: normal }}
  td.features > .pair {{ max-width: calc(100vw - 3.5rem) }}
}}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def write_report(
    model: Any, path: str | os.PathLike[str], X: Any = None, W: Any = None, *, n_top: int = 10,
    title: str | None = None, groupby: Any = None, row_exposure: Any = None, groups: Any = None, mask: Any = None,
) -> Path:  # fmt: skip
    """Write the report; see `FactorModel.report`."""
    import_optional("matplotlib", "plot", "report")
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"path must be a .html file, got {target.name!r}")
    check_folder(target)
    check_scalar(n_top, "n_top", (int, np.integer), min_val=1)
    rankings = {"frequent": model.top_features(n_top)}
    if len(model.components_) > 1:
        rankings["distinctive"] = model.top_features(n_top, by="lift", min_weight=_MIN_WEIGHT)
    counts, W_of_rows, row_exposure, groups = _read_data(model, X, W, row_exposure, groups, mask)
    if groupby is not None:
        groupby = _check_groups(groupby, X, W, W_of_rows)
    W = W_of_rows
    in_memory = counts if isinstance(counts, MemoryCounts) else None
    quality = None if in_memory is None else topic_quality(in_memory, model.components_, n_top, W=W)
    dispersion = None
    if in_memory is not None and is_affordable(in_memory, W.shape[1]):
        dispersion = overdispersion(
            in_memory, W, model, row_exposure=row_exposure, groups=groups, n_threads=model.n_threads
        )
    k, p = model.components_.shape
    title = title or f"{type(model).__name__}: {k} component{'s' * (k > 1)} of {p:,} features"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="muted">fastpmf {__version__}, written {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}</p>',
        _status(model),
        _section("Fit", _table(_without(fit_facts(model), "status")), *_fit_figures(model)),
        "" if counts is None else _section("Data", _table(_data_facts(counts))),
        _section("Components", _components(model, W, rankings, quality)),
        "" if W is None else _section("Structure", _structure(model, W, counts, groupby)),
        ""
        if counts is None
        else _section("Agreement with the counts", *_agreement(model, counts, W, row_exposure, groups)),
        "" if dispersion is None else _section("Variation of the counts", *_variation(dispersion)),
        f'<div class="pair">{_section("Parameters", _parameters(model))}{_section("Versions", _versions())}</div>',
    ]
    page = _PAGE.format(title=escape(title), body="\n".join(filter(None, parts)))
    with atomic_write(path) as file:
        file.write(page.encode())
    return target


_NEEDS_MEMORY = "<p>Coherence, calibration and residuals need counts in memory, and these are streamed.</p>"
_NEEDS_ALL = "<p>Calibration and residuals are of all entries, and some of these are masked.</p>"


def _read_data(
    model: Any, X: Any, W: Any, row_exposure: Any, groups: Any, mask: Any
) -> tuple[Any, np.ndarray | None, np.ndarray | None, Any]:
    """The counts, checked, W of their rows, and the exposures and groups of rows; None if they are not known."""
    beside = {"row_exposure": row_exposure, "groups": groups, "mask": mask}
    beside = {name: value for name, value in beside.items() if value is not None}
    if X is None and beside:
        raise ValueError(f"{next(iter(beside))} must be None without X, whose entries it belongs to")
    if row_exposure is not None and not hasattr(model, "column_exposure_"):
        raise ValueError(f"row_exposure must be None, since a model of type {type(model).__name__} has no exposures")
    if X is not None:
        check_groups_given(model, groups)
    if X is None and W is None:
        posterior = getattr(model, "W_posterior_", None)
        return None, None if posterior is None else posterior.mean, None, None
    k = len(model.components_)
    if X is None:
        W = check_matrix(W, "W")
        return None, check_factor(W, (len(W), k), "W"), None, None
    counts, data = model._read_new_data(X, FitData(**beside), streamed=True)
    if row_exposure is not None:
        row_exposure = vector(data.row_exposure, counts.shape[0], "row_exposure")
    if W is None:
        return counts, model.transform(X, **beside), row_exposure, data.groups
    W = align(W, "W", rows=model._labels(X).rows)
    return counts, check_factor(W, (counts.shape[0], k), "W"), row_exposure, data.groups


def _check_groups(groupby: Any, X: Any, W: Any, W_of_rows: np.ndarray | None) -> Any:
    """The groups of the rows, in their order, as what bools select from."""
    if W_of_rows is None:
        raise ValueError("groupby must be None without X and W, whose rows have the groups")
    groupby = groups_of(groupby, W if X is None else X, "W" if X is None else "X")
    groupby = groupby if hasattr(groupby, "dtype") else np.asarray(groupby)
    if groupby.shape != (n := len(W_of_rows),):
        raise ValueError(f"groupby must have shape ({n},), a group for each row, got shape {groupby.shape}")
    return groupby


def _section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n" + "\n".join(parts) + "\n</section>"


def _table(facts: Mapping[str, str]) -> str:
    rows = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    return f'<div class="scroll"><table><tbody>{"".join(rows)}</tbody></table></div>'


def _status(model: Any) -> str:
    """Why the fit stopped, and what to do next."""
    done = model.status_ in (Status.CONVERGED, Status.VALIDATION, Status.CALLBACK, Status.ONLINE)
    steps = "".join(f"<br>{escape(step)}" for step in next_steps(model))
    return f'<div class="status{"" if done else " open"}"><strong>{escape(model.status_)}</strong>{steps}</div>'


def next_steps(model: Any) -> list[str]:
    """What to do next if the fit did not converge, or has components without counts, as sentences."""
    steps, status = [], model.status_
    limits = {Status.MAX_ITER: ("max_iter", model.max_iter), Status.MAX_TIME: ("max_time", model.max_time)}
    if status in limits:
        name, value = limits[status]
        residual = getattr(model, "residual_" if hasattr(model, "residual_") else "kkt_residual_", np.nan)
        steps.append(f"Its residual is {residual:.2g}, and tol is {model.tol:.2g}.")
        steps.append(f"Fit again with {name} above {value:g}; with a checkpoint the fit can be resumed.")
        if not hasattr(model, "elbo_"):
            steps.append(
                "The residual is a bound: no other W with this H, and no other H with this W, lowers the objective by "
                "more nats per count. If that is little for your purpose, raise tol instead."
            )
    elif status in (Status.INTERRUPTED, Status.UNMEASURED):
        steps.append("Fit again without interrupting; with a checkpoint an interrupted fit can be resumed.")
    elif status is Status.NON_FINITE:
        steps.append("Fit again with dtype='float64', or with less extreme exposures and priors.")
    if n := int((~model.components_.any(axis=1)).sum()):
        steps.append(f"{n} of {len(model.components_)} components carry no counts: fit fewer, or try another start.")
    return steps


def _without(facts: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in facts.items() if key != name}


def _versions() -> str:
    return _table({name: version for name, version in collect_versions().items() if version != "not installed"})


def _fit_figures(model: Any) -> list[str]:
    """The objective and the residual of each record, and the score of held-out counts."""
    figures, trace, curve = [], getattr(model, "trace_", None), getattr(model, "validation_", None)
    if trace is not None:
        objective, residual = trace["objective"], trace["kkt_residual"]
        if np.count_nonzero(objective > np.nanmin(objective, initial=np.inf)) > 1:
            caption = "Objective above the lowest one, by iterations"
            figures.append(_figure(lambda ax: plot.convergence(model, x="n_iter", ax=ax), caption))
        known = np.isfinite(residual) & (residual > 0)
        if np.count_nonzero(known) > 1:
            n_iter, residual = trace["n_iter"][known], residual[known]
            caption = "Residual by iterations" + ", and tol" * (model.tol > 0)
            figures.append(_figure(lambda ax: _draw_curve(ax, n_iter, residual, "residual", model.tol), caption))
    if curve is not None and len(curve):
        n_iter, score = curve["n_iter"], curve["log_likelihood"]
        caption = "Log-likelihood of held-out counts by iterations"
        figures.append(_figure(lambda ax: _draw_curve(ax, n_iter, score, "nats per held-out count"), caption))
    return [f'<div class="pair">{"".join(figures)}</div>'] if figures else []


def _draw_curve(ax: Any, n_iter: np.ndarray, values: np.ndarray, label: str, tol: float | None = None) -> None:
    """Values by iterations; on a logarithmic axis with a line at `tol`, if it is given."""
    ax.plot(n_iter, values, color=BLUE, marker="o", markersize=4)
    ax.set(xlabel="iterations", ylabel=label, yscale="linear" if tol is None else "log")
    if tol:
        ax.axhline(tol, color=GREY, linestyle="--", label="tol")
        ax.legend(frameon=False, loc="upper right")
    hide_frame(ax)


def _data_facts(counts: Any) -> dict[str, str]:
    (n, p), (rows, columns) = counts.shape, (counts.sums(side) for side in Side)
    return {
        "size": f"{n:,} rows x {p:,} columns",
        "nonzeros": f"{counts.nnz:,} ({counts.nnz / (n * p):.3g} of all entries)",
        "sum of the counts": f"{counts.total:,.8g}, {counts.total / n:,.4g} in a row on average",
        "largest count": f"{counts.largest:,.6g}",
        "stored as": str(counts.dtype),
        "without counts": f"{np.count_nonzero(rows == 0):,} rows, {np.count_nonzero(columns == 0):,} columns",
    }


def _components(model: Any, W: np.ndarray | None, rankings: Mapping[str, TopFeatures], quality: Quality | None) -> str:
    """A table with two rows for each component, the largest first: its numbers, and the first features of rankings."""
    H, colors = model.components_, component_colors(len(model.components_))
    mean = model.mean_W_ if W is None else W
    shares = None if mean is None else component_shares(mean, H)
    scores = {} if quality is None else quality._columns()
    order = range(len(H)) if shares is None else np.argsort(-shares, kind="stable").tolist()
    head = ["<th>component</th>"] + ['<th class="number">share of counts</th>'] * (shares is not None)
    head += [f'<th class="number">{name.replace("_", " ")}</th>' for name in scores]
    lines = []
    for z in order:
        color = colors[z]
        name = escape(short_name(str(rankings["frequent"].components[z])))
        cells = [f'<td><span class="swatch" style="background:{color}"></span>{name}</td>']
        if shares is not None:
            width = 4.0 * shares[z] / (shares.max() or 1.0)
            bar = (
                f'<span class="share"><span class="bar" style="width:{width:.2f}rem;background:{color}"></span></span>'
            )
            cells.append(f'<td class="number">{shares[z]:.1%}{bar}</td>')
        features = "".join(
            f'<div><span class="ranking">{name}</span> {_features(top, z) or "(none)"}</div>'
            for name, top in rankings.items()
        )
        cells += [f'<td class="number">{number(values[z])}</td>' for values in scores.values()]
        lines.append(f"<tr>{''.join(cells)}</tr>")
        lines.append(f'<tr><td class="features" colspan="{len(head)}"><div class="pair">{features}</div></td></tr>')
    notes = ["Below each component are its most frequent features, with their probabilities given the component."]
    if len(rankings) > 1:
        notes.append(
            "Its most distinctive features have the highest lift, the probability divided by its mean over all "
            f"components, among those with a probability of at least {_MIN_WEIGHT}."
        )
    if shares is not None:
        notes.append(
            "Components are sorted by their share of the expected counts, without exposures and background; their "
            "numbers or names are those of the fit."
        )
    if quality is not None:
        notes.append(
            "UMass and NPMI coherence: whether the top features occur in the same rows; NPMI is from -1, never, to 1, "
            "always. Exclusivity: the component's share of its top features, at most 1. Effective features: the number "
            "of equally likely features with the same entropy; effective rows likewise."
        )
    table = f'<table class="components"><thead><tr>{"".join(head)}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<p class="muted">{" ".join(notes)}</p><div class="scroll">{table}</div>'


def _features(top: TopFeatures, z: int) -> str:
    """The first features of component z, each with its score."""
    return " ".join(
        f"<span>{escape(short_name(name))}&nbsp;<small>{weight(score)}</small></span>"
        for name, score, j in zip(top.names[z], top.scores[z], top.indices[z], strict=True)
        if j >= 0
    )


def _structure(model: Any, W: np.ndarray, counts: Any, groupby: Any) -> str:
    """The structure plot of the rows that have counts; for rows without counts, W only reflects the prior."""
    empty = np.zeros(len(W), bool) if counts is None else counts.sums(Side.ROWS) == 0
    if empty.all():
        return "<p>No row has counts.</p>"
    W, groupby = W[~empty], None if groupby is None else groupby[~empty]

    def draw(ax: Any) -> None:
        plot.structure(W, model, groupby=groupby, ax=ax)
        if len(model.components_) > _LEGEND_COMPONENTS:
            ax.get_legend().remove()

    caption = "Shares of the components in the expected counts of each row; rows are sorted by similarity"
    caption += "" if groupby is None else ", in each group"
    if len(W) > 2000:
        caption += f", a random 2,000 of {len(W):,}"
    if empty.any():
        caption += f"; {np.count_nonzero(empty):,} rows without counts are left out"
    return _figure(draw, f"{caption}. Colours are those of the table above.", 10.0, 3.2)


def _agreement(model: Any, counts: Any, W: np.ndarray, row_exposure: np.ndarray | None, groups: Any) -> list[str]:
    """Calibration and residuals, of a random subset of the rows if there are very many entries."""
    if not isinstance(counts, MemoryCounts):
        return [_NEEDS_MEMORY]
    if counts.unobserved is not None:
        return [_NEEDS_ALL]
    if groups is None:
        W, H = model_rates(model, W, row_exposure)
    else:
        W, H = model._rate_factors(W, row_exposure, groups)
    (n, p), X = counts.shape, counts.to_scipy()
    n_drawn = min(n, max(1, _CALIBRATION_ENTRIES // p))
    drawn = np.sort(np.random.default_rng(0).choice(n, n_drawn, replace=False))
    part, W_part = (X, W) if n_drawn == n else (X[drawn], W[drawn])
    subset = "" if n_drawn == n else f" A random {n_drawn:,} of {n:,} rows."
    figures = []
    if part.sum() > 0 and (W_part.sum(axis=0) @ H).sum() > 0:
        figures.append(_figure(
            lambda ax: plot.calibration(part, W_part, H, ax=ax),
            "Calibration: mean counts of entries with similar rates; on the diagonal they are as expected. Counts that "
            f"were fitted agree better than new ones.{subset}", 4.8, 4.6,
        ))  # fmt: skip
    all_rows = counts.nnz <= _RESIDUAL_ENTRIES
    figures.append(_figure(
        lambda ax: plot.residuals(*((X, W) if all_rows else (part, W_part)), H, ax=ax),
        "Residuals of groups of rows and columns by their totals; for Poisson counts with the fitted rates most are "
        f"between -2 and 2.{'' if all_rows else subset}", 6.4, 4.8,
    ))  # fmt: skip
    return [f'<div class="pair">{"".join(figures)}</div>']


def _variation(found: Overdispersion) -> list[str]:
    """Whether the counts vary more than Poisson counts, what follows from it, and the plot."""
    parts = [f"<p>{escape(found.sentence())}</p>"]
    if np.isfinite(found.standard_error).any():
        parts.append(_figure(
            lambda ax: plot.overdispersion(found, ax=ax),
            "Variance of each feature around its fitted rates, relative to that of Poisson counts, most of which would "
            "be in the grey band. The features of highest z scores are named.", 6.4, 4.4,
        ))  # fmt: skip
    return parts


def _parameters(model: Any) -> str:
    """All parameters; those that are not the defaults are bold."""
    given, default = model.get_params(deep=False), type(model)(1).get_params(deep=False)
    rows = (
        f"<tr><th>{escape(name)}</th><td{' class=changed' if brief(value) != brief(default[name]) else ''}>"
        f"{escape(brief(value))}</td></tr>"
        for name, value in given.items()
    )
    return f'<div class="scroll"><table><tbody>{"".join(rows)}</tbody></table></div>'


def _figure(draw: Callable[[Any], Any], caption: str, width: float = 6.4, height: float = 3.6) -> str:
    """A figure that `draw` draws on Axes, as part of the page."""
    matplotlib, figures = import_optional("matplotlib", "plot"), import_optional("matplotlib.figure", "plot")
    with matplotlib.rc_context(), io.BytesIO() as file:
        matplotlib.rcdefaults()
        figure = figures.Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        if axes.get_xlabel() == "iterations":
            axes.xaxis.get_major_locator().set_params(integer=True)
        figure.savefig(file, format="png", dpi=160)
        content = base64.b64encode(file.getvalue()).decode()
    return (
        f'<figure><img width="{width * 96:.0f}" alt="{escape(caption)}" src="data:image/png;base64,{content}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
