"""What commands read: counts, names, and the vectors and matrices that belong to them."""

import argparse
import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fastpmf import HPF, PoissonNMF, as_counts
from fastpmf.cli.printing import print_message
from fastpmf.counts import Dataset
from fastpmf.counts.labels import align, labels_of
from fastpmf.counts.validation import non_integer_fraction
from fastpmf.io import FORMATS, annotations, concatenate_counts, is_model, load_model, read_counts, stream_counts
from fastpmf.io.formats import format_of
from fastpmf.utils.files import READ_ERRORS, STANDARD_INPUT, regular_file
from fastpmf.utils.messages import brief, listed, printable, suggestion
from fastpmf.utils.validation import duplicates

Model = PoissonNMF | HPF
_FORMAT_OPTIONS = ("layer", "columns", "header", "feature_types", "feature_names")
VALUES_FILE = "values.txt"  # in a folder of `convert`, if its values are not the counts themselves


def read(arguments: argparse.Namespace, paths: Sequence[str | os.PathLike[str]] | None = None) -> Dataset:
    """Read the counts of a command, from `paths` if they are given."""
    paths = arguments.counts if paths is None else paths
    check_format(arguments)
    parts = []
    for path in paths:
        with regular_file(path, standard_input=True) as file:
            parts.append(read_counts(file, **read_options(arguments)))
    labels = list(map(os.fspath, paths))
    data = parts[0] if len(parts) == 1 else concatenate_counts(parts, join=arguments.join, labels=labels)
    warn_if_not_whole(data.X.data, arguments, paths[0])
    return with_names(with_values(data, arguments.values, ", ".join(labels)), arguments)


def read_train(arguments: argparse.Namespace) -> Dataset:
    """Read the counts of --train: in the format of their name, with those options of COUNTS that this format has."""
    try:
        format = format_of(arguments.train)
    except ValueError:
        format = arguments.format
    known = FORMATS[format].options if format else ()
    options = {name: None for name in _FORMAT_OPTIONS if name not in known} | {"format": format}
    return read(argparse.Namespace(**(vars(arguments) | options)), [arguments.train])


def with_values(data: Dataset, values: str, source: str) -> Dataset:
    """The counts x with the values of --values: x itself, log2(1 + x), or 1 where x > 0; errors name `source`."""
    if values == "counts":
        return data
    X = as_counts(data.X, name=source).to_scipy()
    X.data = np.ones(X.nnz, np.uint8) if values == "binary" else np.log2(1.0 + X.data)
    return replace(data, X=X)


def stream(arguments: argparse.Namespace) -> Dataset:
    """The counts of a command, which are read from their file in each pass."""
    if len(arguments.counts) > 1 or arguments.counts[0] == STANDARD_INPUT:
        raise ValueError("argument --stream: expected one file or folder, which is read several times; "
                         "`fastpmf convert` puts several together")  # fmt: skip
    if arguments.values != "counts":
        raise ValueError("argument --values: --stream reads counts as they are; convert them first, with --values")
    options = read_options(arguments)
    if options.pop("columns") is not None or options.pop("header") is not None:
        raise ValueError("argument --stream: --columns and --header are for tables, which can't be streamed; convert "
                         "them first")  # fmt: skip
    data = stream_counts(arguments.counts[0], n_threads=arguments.threads, **options)
    _, first = next(data.X.blocks())
    warn_if_not_whole(first.side(data.X.storage_axis).data, arguments, arguments.counts[0])
    return with_names(data, arguments)


def read_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `read_counts`."""
    return {name: getattr(arguments, name) for name in ("format", *_FORMAT_OPTIONS, "transpose")}


def check_format(arguments: argparse.Namespace) -> None:
    """Raise an error if standard input is read twice or without --format."""
    n_pipes = list(arguments.counts).count(STANDARD_INPUT)
    if n_pipes > 1:
        raise ValueError("argument COUNTS: expected - for standard input once, got it twice")
    if n_pipes and arguments.format is None:
        raise ValueError("argument --format: needed with standard input, which has no name that tells its format")


def with_names(data: Dataset, arguments: argparse.Namespace) -> Dataset:
    """The counts with the names of --row-names and --column-names, where they are given."""
    for option, field, n in (("row", "row_names", data.X.shape[0]), ("column", "column_names", data.X.shape[1])):
        if (path := getattr(arguments, field)) is not None:
            names = read_lines(path, f"--{option}-names")
            if len(names) != n:
                raise ValueError(f"argument --{option}-names: expected {n:,} lines, one for each {option}, got "
                                 f"{len(names):,} in {path}")  # fmt: skip
            data = replace(data, **{field: np.array(names)})
    return data


def warn_if_not_whole(counts: np.ndarray, arguments: argparse.Namespace, path: str | os.PathLike[str]) -> None:
    """Warn of counts that are not whole numbers, unless `convert --values log2` made them."""
    share = non_integer_fraction(counts)
    if not share or (Path(path) / VALUES_FILE).is_file():
        return
    found = annotations.layers(path, arguments.format) if annotations.is_anndata(path, arguments.format) else []
    others = [name for name in found if name != arguments.layer]
    advice = f"--layer may be {listed(others)}" if others else "fit counts, or log2(1 + x) made by --values log2"
    print_message(
        f"fastpmf: warning: {share:.0%} of the nonzeros are not whole numbers, as after normalisation or logarithms; "
        f"{advice}"
    )


# ── Rows for a fitted model ─────────────────────────────────────────────────────────────────────────────────────


def load(arguments: argparse.Namespace) -> Model:
    """The model of a command, with its number of threads."""
    return load_model(arguments.model).set_params(n_threads=arguments.threads, verbose=False)


def read_for_model(arguments: argparse.Namespace, model: Model) -> tuple[Dataset, np.ndarray | None]:
    """Counts aligned with the fitted features if both have names, and which features are not observed, or None."""
    return aligned(read(arguments), model, arguments, ", ".join(arguments.counts))


def aligned(
    data: Dataset, model: Model, arguments: argparse.Namespace, source: str
) -> tuple[Dataset, np.ndarray | None]:
    """As `read_for_model`, for counts that are called `source` in messages."""
    names = getattr(model, "feature_names_in_", None)
    if data.column_names is None and names is not None and len(names) == data.X.shape[1]:
        return replace(data, column_names=names), None  # by position
    if data.X.shape[1] != (p := model.components_.shape[1]) and (names is None or data.column_names is None):
        raise ValueError(f"{source} has {data.X.shape[1]:,} columns, the model was fitted to {p:,}; they can't be "
                         "matched without names")  # fmt: skip
    if names is None or data.column_names is None or np.array_equal(data.column_names, names.astype(str)):
        return data, None
    found, left_out, missing = data.aligned(names)
    if missing.all():
        raise ValueError(f"no column of {source} has a name that the model was fitted with")
    if left_out:
        print_message(f"fastpmf: {left_out} of {len(data.column_names)} columns were not fitted and are left out")
    if not missing.any():
        return found, None
    lacks = f"{source} lacks {np.count_nonzero(missing)} of the {len(names)} fitted columns"
    treatment = getattr(arguments, "missing", None)
    if treatment is None:
        raise ValueError(f"{lacks}, such as {brief(names[missing][0])}")
    if treatment == "zero":
        other = "" if getattr(arguments, "train", None) else "; --missing unobserved treats them as not observed"
        print_message(f"fastpmf: {lacks}: treated as counts of 0{other}")
        return found, None
    print_message(f"fastpmf: {lacks}: treated as not observed; --missing zero treats them as counts of 0")
    return found, missing


def fitted_rows(arguments: argparse.Namespace, model: Model) -> tuple[Dataset, np.ndarray]:
    """Counts aligned with the fitted features, and W of --weights, by default computed."""
    data, missing = read_for_model(arguments, model)
    if arguments.weights is None:
        return data, weights(model, data, missing, **beside_counts(arguments, model, data))
    return data, read_weights(arguments, model, data)


def read_weights(arguments: argparse.Namespace, model: Model, data: Dataset) -> np.ndarray:
    """W of --weights, with a row for each row of the counts."""
    W = read_matrix(arguments.weights, "--weights", data.row_names)
    shape = data.X.shape[0], len(model.components_)
    if W.shape != shape:
        raise ValueError(
            f"argument --weights: expected a matrix of shape {shape}, got {W.shape} in {arguments.weights}"
        )
    return W


def heldout_rows(arguments: argparse.Namespace, model: Model) -> tuple[Dataset, Dataset, np.ndarray]:
    """Held-out counts, the counts of --train with the same rows in the same order, and W of the latter."""
    data, _ = read_for_model(arguments, model)
    train, missing = aligned(read_train(arguments), model, arguments, arguments.train)
    data = align(data, ", ".join(arguments.counts), rows=labels_of(train, 0)._replace(source=arguments.train))
    if data.X.shape != train.X.shape:
        raise ValueError(f"argument --train: expected counts of shape {data.X.shape}, got {train.X.shape}")
    return data, train, weights(model, train, missing, **beside_counts(arguments, model, train))


def exposure_of(arguments: argparse.Namespace, data: Dataset, train: Dataset) -> float:
    """The ratio of the rates of held-out counts to those of the fitted ones; by default that of their totals."""
    if arguments.exposure is not None:
        return arguments.exposure
    heldout, fitted = (float(A.X.sum(dtype=np.float64)) for A in (data, train))
    if not heldout or not fitted:
        raise ValueError(f"{', '.join(arguments.counts)} and {arguments.train} must each hold a positive count")
    return heldout / fitted


def weights(model: Model, data: Dataset, missing: np.ndarray | None, **beside: Any) -> np.ndarray:
    """W of all rows, from the observed features."""
    part, observed = observed_part(model, data, missing)
    return part.transform(observed, **beside)


def observed_part(model: Model, data: Dataset, missing: np.ndarray | None) -> tuple[Model, Dataset]:
    """The model and the counts of the observed features only."""
    if missing is None:
        return model, data
    here = np.flatnonzero(~missing)
    names = model.feature_names_in_[here]
    return model._with_features(here), replace(data, X=data.X.tocsr()[:, here], column_names=names)


def beside_counts(arguments: argparse.Namespace, model: Model, data: Dataset) -> dict[str, Any]:
    """The keyword arguments of `transform`, from the options of a command that has some of them."""
    row_exposure, groups, mask = (getattr(arguments, name, None) for name in ("row_exposure", "row_groups", "mask"))
    given: dict[str, Any] = {}
    if groups is not None:
        if getattr(arguments, "train", None) and not os.path.exists(groups):
            raise FileNotFoundError(f"argument --groups: no file {groups}, which --train needs")
        given["groups"] = read_groups(groups, "--groups", data, arguments, axis=0)
    if row_exposure is not None:
        if isinstance(model, HPF):
            raise ValueError("argument --row-exposure: an HPF model has no exposures")
        given["row_exposure"] = read_vector(row_exposure, "--row-exposure", data, axis=0)
    if mask is not None:
        given["mask"] = read_counts(mask)
    return given


# ── Names, vectors and matrices ─────────────────────────────────────────────────────────────────────────────────


def read_lines(path: str, option: str) -> list[str]:
    """The lines of the text file of an option, without their ends and without empty lines at the end."""
    text = _read_text(path, option).rstrip("\n")
    return text.split("\n") if text else []


def _read_text(path: str, option: str) -> str:
    try:
        return Path(path).read_text("utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"argument {option}: no file {path}") from None
    except UnicodeDecodeError:
        raise ValueError(f"argument {option}: expected text in UTF-8, got {path}") from None


def read_vector(given: float | str, option: str, data: Dataset, *, axis: int) -> float | np.ndarray:
    """A number, or the numbers in a file: one for each row (axis 0) or column (axis 1) of the counts."""
    if isinstance(given, float):
        return given
    values = read_values(given, option, data, axis=axis)
    try:
        return values.astype(np.float64)
    except ValueError:
        wrong = next(value for value in values.tolist() if not _is_number(value))
        raise ValueError(f"argument {option}: expected numbers, got {brief(wrong)} in {given}") from None


def read_values(path: str, option: str, data: Dataset, *, axis: int) -> np.ndarray:
    """The values in a file: one for each row (axis 0) or column (axis 1) of the counts.

    The file is .npy, or text with one value a line, or a name and a value, separated by a tab or comma, in each line.
    """
    item, n = ("row", "column")[axis], data.X.shape[axis]
    if Path(path).suffix == ".npy":
        values = _load_npy(path, option)
    else:
        lines = read_lines(path, option)
        delimiter = next((mark for mark in "\t," if lines and all(mark in line for line in lines)), None)
        if delimiter is not None:
            names = (data.row_names, data.column_names)[axis]
            return _by_name(csv.reader(lines, delimiter=delimiter), names, f"argument {option}", path, item)
        values = np.array(lines)
    if values.shape != (n,):
        size = f"{len(values):,}" if values.ndim == 1 else f"shape {values.shape}"
        raise ValueError(f"argument {option}: expected {n:,} values, one for each {item}, got {size} in {path}")
    return values


def read_groups(given: str, option: str, data: Dataset, arguments: argparse.Namespace, *, axis: int) -> Any:
    """The group of each row (axis 0) or column (axis 1) of the counts of a command.

    They are those in a file, as of `read_values`, or a column of .obs (axis 0) or .var if the counts are AnnData.
    """
    if os.path.exists(given):
        return read_values(given, option, data, axis=axis)
    frame, format, paths = ("obs", "var")[axis != arguments.transpose], arguments.format, arguments.counts
    if not all(annotations.is_anndata(path, format) for path in paths):
        raise FileNotFoundError(
            f"argument {option}: no file {given}; the name of a column of .{frame} needs COUNTS in .h5ad or .zarr"
        )
    for path in paths:
        names = annotations.columns(path, format, frame=frame)
        if given not in names:
            raise ValueError(
                f"argument {option}: expected a file or a column of .{frame} of {path}, which are "
                f"{', '.join(names) or 'none'}, got {brief(given)}{suggestion(given, names)}"
            )
    if axis == 1:  # the columns of the counts are in the order of the fitted ones
        values = annotations.read_column(paths[0], given, format, frame=frame)
        if data.column_names is None:
            return values
        own = annotations.read_index(paths[0], format, frame=frame)
        return _by_name(zip(own, values, strict=True), data.column_names, f"argument {option}", paths[0], "column")
    parts = [annotations.read_column(path, given, format, frame=frame) for path in paths]
    return parts[0] if len(parts) == 1 else np.concatenate([np.asarray(part, object) for part in parts])


def _by_name(rows: Any, names: Any, argument: str, path: str, item: str) -> np.ndarray:
    """The values of lines of names and values, in the order of `names`."""
    if names is None:
        raise ValueError(f"{argument}: {path} has names and values, but the {item}s of the counts have no names")
    rows = list(rows)
    for row in rows:
        if len(row) != 2:
            raise ValueError(f"{argument}: expected a name and a value in each line of {path}, got {brief(row)}")
    own, values = zip(*rows, strict=True)
    return np.array(values)[_positions(own, names, argument, path, item)]


def _positions(own: Iterable[Any], names: Iterable[Any], argument: str, path: str, item: str) -> list[int]:
    """The positions of names of rows or columns (`item`) of the counts among those in a file, `own`."""
    own, names = list(map(str, own)), list(map(str, names))
    if own == names:  # which may repeat
        return list(range(len(own)))
    for labels, source in ((own, path), (names, "the counts")):
        if repeated := duplicates(labels):
            raise ValueError(
                f"{argument}: {item}s can't be matched by name: in {source}, {listed(repeated, 1)} occurs more than "
                "once; the file may have the names of the counts in the same order, or no names"
            )
    position = {name: i for i, name in enumerate(own)}
    if missing := [name for name in names if name not in position]:
        raise ValueError(
            f"{argument}: {path} lacks {len(missing):,} of the {len(names):,} {item}s: {listed(missing, 1)}"
        )
    return [position[name] for name in names]


def read_seeds(path: str, option: str) -> dict[str, Any]:
    """The features of components, by name, in a JSON file."""
    text = _read_text(path, option)
    try:
        seeds = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"argument {option}: {path} is not JSON: {error}") from None
    if not isinstance(seeds, dict):
        raise ValueError(f"argument {option}: expected an object with lists of features in {path}, got {brief(seeds)}")
    return seeds


def read_matrix(path: str, option: str, row_names: Any = None, column_names: Any = None) -> np.ndarray:
    """A matrix of .npy, or of .csv or .tsv with a header, with empty cells as NaN; or H of a model.

    If the first column is called "row", it has names of rows, which are matched with `row_names`. The header is matched
    with `column_names`.
    """
    argument, ending = f"argument {option}", Path(path).suffix
    if ending == ".npy":
        A = _load_npy(path, option)
        if A.ndim != 2 or A.dtype.kind not in "fiu":
            raise ValueError(f"{argument}: expected a matrix of numbers, got {A.dtype} of shape {A.shape} in {path}")
        return A
    if ending == ".npz" and is_model(path):
        model = load_model(path)
        names = getattr(model, "feature_names_in_", None)
        if names is None or column_names is None:
            return model.components_
        return model.components_[:, _positions(names, column_names, argument, path, "column")]
    if ending not in (".csv", ".tsv"):
        raise ValueError(f"{argument}: expected a .npy, .csv or .tsv file or a model, got {path}")
    lines = io.StringIO(_read_text(path, option) or "\n", newline="")
    header, *rows = csv.reader(lines, delimiter="," if ending == ".csv" else "\t")
    try:
        start = int(header[:1] == ["row"])
        A = np.array([[float(x) if x else math.nan for x in row[start:]] for row in rows])
        A = A.reshape(len(rows), len(header) - start)
    except ValueError:
        raise ValueError(f"{argument}: expected numbers below a header, as many in each line, in {path}") from None
    if start and row_names is not None:
        A = A[_positions([row[0] for row in rows], row_names, argument, path, "row")]
    return A if column_names is None else A[:, _positions(header[start:], column_names, argument, path, "column")]


def _load_npy(path: str, option: str) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"argument {option}: no file {path}") from None
    except READ_ERRORS as error:
        raise ValueError(f"argument {option}: {path} can't be read as .npy: {printable(error)}") from None


def _is_number(text: Any) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False
