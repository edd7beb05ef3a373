"""The command line, as its user types it."""

import csv
import errno
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.io import mmwrite
from sklearn.exceptions import ConvergenceWarning
from test_files import KINDS, write_tenx

import fastpmf
from fastpmf import HPF, Bootstrap, Consensus, FactorDraws, PoissonNMF, PosteriorDraws, cli
from fastpmf.analysis.gibbs import Chain
from fastpmf.cli import commands
from fastpmf.cli.parser import make_parser
from fastpmf.cli.reading import read_matrix
from fastpmf.datasets import load_stdlib
from fastpmf.io import Dataset, read_counts, write_counts


@pytest.fixture
def counts(tmp_path):
    X = sparse.csr_array(np.random.default_rng(0).poisson(0.5, (30, 12)))
    sparse.save_npz(tmp_path / "X.npz", X)
    mmwrite(tmp_path / "X.mtx", X)
    (tmp_path / "X.mtx.gz").write_bytes(gzip.compress((tmp_path / "X.mtx").read_bytes()))
    return tmp_path


@pytest.fixture
def run(counts, monkeypatch, capsys):
    """Run a command line in the folder of the counts: exit code, standard output, standard error."""
    monkeypatch.chdir(counts)

    def call(line):
        try:
            code = cli.main(line.split() if isinstance(line, str) else line)
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def table(text):
    """The rows of a table that a command prints into a pipe, as dicts of str."""
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def test_fit_writes_a_model_and_transform_uses_it(run):
    code, out, _ = run("fit X.npz -k 3 -o model.npz --weights W.npy --max-iter 5000 --tol 0.01")
    assert code == 0
    assert "30 x 12" in out
    assert "objective" in out
    assert run("transform model.npz X.mtx.gz -o W2.npy")[0] == 0
    model, W, W2 = PoissonNMF.load("model.npz"), np.load("W.npy"), np.load("W2.npy")
    assert W.shape == W2.shape == (30, 3)
    assert np.array_equal(W2, model.transform(sparse.load_npz("X.npz")))


@pytest.mark.parametrize("file", ["X.npz", "X.mtx", "X.mtx.gz"])
def test_every_format_gives_the_same_model(run, file):
    run("fit X.npz -k 2 -o a.npz --max-iter 5 -q")
    run(f"fit {file} -k 2 -o b.npz --max-iter 5 -q")
    assert np.array_equal(PoissonNMF.load("a.npz").components_, PoissonNMF.load("b.npz").components_)


def test_a_streamed_fit_is_saved_as_often_as_asked_and_a_folder_replaced_with_a_word(run):
    assert "replacing" not in run("convert X.npz -o X")[1]
    assert run("convert X.npz -o X")[1].endswith("replacing the old folder\n")
    command = "fit X --stream -k 2 --max-iter 3 --tol 0 --checkpoint saved -o m.npz"
    assert run(command)[0] == 0
    assert list(Path("saved").iterdir()) == []
    assert run(f"{command} --checkpoint-minutes 0")[0] == 0
    assert [path.name for path in sorted(Path("saved").iterdir())][-1] == "checkpoint-00000003.npz"
    assert (
        "argument --checkpoint-minutes: expected a number >= 0, got '-1'"
        in run(f"{command} --checkpoint-minutes -1")[2]
    )


def test_counts_are_converted_once_and_fitted_from_the_folder_with_their_names(run):
    X = sparse.load_npz("X.npz").tocoo()
    table = [f"user {i},item {j},{int(x)}\n" for i, j, x in zip(X.row, X.col, X.data, strict=True)]
    Path("X.csv").write_text("who,what,n\n" + "".join(table))
    code, out, _ = run("convert X.csv --columns who,what,n -o X")
    assert code == 0
    assert f"{X.shape[0]} x {X.shape[1]}, {X.nnz} nonzeros as uint8 in X" in out
    assert run("convert X -o Y -q")[2] == ""  # of any format, this one too
    for folder in ("X", "Y"):
        assert run(f"fit {folder} -k 2 -o model.npz --max-iter 5 -q")[0] == 0
        model = PoissonNMF.load("model.npz")
        assert sorted(model.feature_names_in_) == sorted(f"item {j}" for j in range(12))
    assert run("transform model.npz X.csv -o W.npy")[0] == 0
    once = dict(zip(read_counts("X.csv").row_names, np.load("W.npy"), strict=True))
    Path("X.csv").write_text("".join([*table[::-1], "user 1,item of another shop,3\n"]))  # other order, one more
    code, _, err = run("transform model.npz X.csv -o W.npy")
    assert code == 0
    assert "1 of 13 columns were not fitted and are left out" in err
    for name, w in zip(read_counts("X.csv").row_names, np.load("W.npy"), strict=True):
        np.testing.assert_allclose(w, once[name], rtol=1e-9)  # sums in the order of the columns
    Path("X.csv").write_text("a,b,1\n")
    code, _, err = run("recommend model.npz X.csv")
    assert code == 2
    assert "no column of X.csv has a name that the model was fitted with" in err


def test_numbers_of_components_are_compared_in_a_table(run):
    code, out, err = run("select X.npz -k 1 2 3 --splits 2 --holdout counts -q")
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    assert lines[0].split() == ["k", "log_likelihood", "error", "similarity", "seconds", "excess", "choice"]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert "recommended" in out


@pytest.mark.parametrize("kind", ["poisson", "hpf"])
def test_a_long_fit_of_a_selection_shows_its_iterations(run, monkeypatch, kind):
    monkeypatch.setattr(commands, "SECONDS_BETWEEN_LINES", 0.0)
    line = f"select X.npz -k 1 2 --splits 1 --max-iter 30 --model {kind}"
    code, shown, err = run(f"{line} --json")
    assert code == 0
    assert "iteration    10 of 30" in err
    monkeypatch.setattr(commands, "SECONDS_BETWEEN_LINES", 1e6)
    assert "iteration" not in run(line)[2]
    scores = (json.loads(text)["log_likelihood"] for text in (shown, run(f"{line} --json -q")[1]))
    np.testing.assert_array_equal(*scores)


def test_topics_are_a_table_of_features_by_name(run):
    Path("X.csv").write_text("who,what,n\n" + "".join(f"u{i},w{i % 3},{i + 1}\n" for i in range(6)))
    run("fit X.csv -k 2 -o model.npz --max-iter 5 -q")
    code, out, _ = run("topics model.npz -n 2")
    top = PoissonNMF.load("model.npz").top_features(2)
    expected = [
        {"component": k, "rank": rank, "feature": name, "score": score}
        for k in range(2)
        for rank, (name, score) in enumerate(zip(top.names[k].tolist(), top.scores[k].tolist(), strict=True), 1)
    ]
    assert code == 0
    assert table(out) == [{key: f"{x:.6g}" if key == "score" else str(x) for key, x in row.items()} for row in expected]
    assert json.loads(run("topics model.npz -n 2 --json")[1]) == expected
    code, out, _ = run("topics model.npz -n 2 --by exclusivity -o topics.csv")
    assert (code, out) == (0, "")
    assert len(json.loads(run("topics model.npz -n 2 -o topics.csv --by exclusivity --json")[1])) == 4
    assert Path("topics.csv").read_text().splitlines()[0] == "component,rank,feature,score"
    assert run("topics X.npz")[0] == 2
    Path("X.csv").write_text("u,\x1b[2J,1\nv,x,2\n")
    run("fit X.csv -k 1 -o model.npz --max-iter 5 -q")
    assert "\x1b" not in run("topics model.npz")[1] + run("info X.csv")[1]


def test_names_that_a_terminal_cannot_show_are_escaped(run, monkeypatch):
    Path("X.csv").write_text("ü,é,1\nv,x,2\n", "utf-8")
    terminal = io.TextIOWrapper(io.BytesIO(), "latin-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.main(["info", "X.csv"]) == 0
    assert "names: \xfc, v" in terminal.buffer.getvalue().decode("latin-1")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert cli.main(["info", "X.csv"]) == 0
    assert rb"names: \xfc, v" in sys.stdout.buffer.getvalue()


def test_info_says_what_a_file_holds(run):
    code, out, _ = run("info X.npz")
    X = sparse.load_npz("X.npz")
    assert code == 0
    assert f"30 x 12 counts, {X.nnz} nonzeros" in out
    assert "rows: 0 empty; no names" in out
    run("fit X.npz -k 2 -o model.npz --max-iter 5 -q")
    assert "PoissonNMF of 2 components x 12 features, float32, features without names" in run("info model.npz")[1]
    assert run("info absent.npz")[0] == 2


def test_logarithms_are_warned_of(run):
    X = sparse.load_npz("X.npz")
    sparse.save_npz("log.npz", X.log1p())
    code, _, err = run("fit log.npz -k 1 -o model.npz --max-iter 5 -q")
    assert code == 0
    assert "100% of the nonzeros are not whole numbers" in err


def test_the_layer_that_may_have_the_counts_is_named_where_the_values_are_not_counts(run):
    X = sparse.csr_matrix(sparse.load_npz("X.npz"))
    anndata.AnnData(X.log1p(), layers={"counts": X}).write_h5ad("log.h5ad")
    for line in ("fit log.h5ad -k 1 -o model.npz --max-iter 5 -q", "info log.h5ad", "convert log.h5ad -o log -q"):
        code, _, err = run(line)
        assert code == 0
        assert err.endswith("as after normalisation or logarithms; --layer may be 'counts'\n")
    assert "100% of the nonzeros are not whole numbers" in run("info log.h5ad")[1]
    assert "whole numbers" not in "".join(run("info log.h5ad --layer counts")[1:])
    assert json.loads(run("info log.h5ad --json")[1])["not_whole"] == 1.0


def test_values_that_convert_made_are_not_warned_of(run):
    assert run("convert X.npz -o log --values log2 -q")[2] == ""
    assert Path("log/values.txt").read_text() == "log2\n"
    assert run("fit log -k 1 -o model.npz --max-iter 5 -q")[2] == ""
    assert run("convert X.npz -o log -q")[2] == ""
    assert not Path("log/values.txt").exists()


def test_names_that_are_not_unique_are_warned_of_when_they_are_converted(run):
    write_tenx(Path("cells"), None)
    err = run("convert cells -o converted -q")[2]
    assert "1 feature name(s) more than once, for example" in err
    assert "--column-names" in err
    assert "feature_names='id'" in err
    assert run("convert cells -o converted -q --feature-names id")[2] == ""


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
def test_groups_are_a_file_or_a_column_of_anndata(run, monkeypatch):
    drawn, X = [], sparse.csr_matrix(sparse.load_npz("X.npz").astype(np.float32))
    for name in ("structure", "group_heatmap", "residuals"):
        real = getattr(fastpmf.plot, name)
        monkeypatch.setattr(fastpmf.plot, name, lambda *a, real=real, **k: drawn.append(k) or real(*a, **k))
    kinds = pd.Categorical(["B", "A", None] * 10, categories=["B", "A"])
    adata = anndata.AnnData(X, obs={"kind": kinds, "batch": np.arange(30) % 2}, var={"sort": list("xy") * 6})
    adata.write_h5ad("cells.h5ad")
    adata[:, ::-1].copy().write_zarr("cells.zarr")
    run("fit cells.h5ad -k 2 -o m.npz --max-iter 5 -q")
    for file in ("cells.h5ad", "cells.zarr"):
        code, _, err = run(f"plot structure m.npz {file} --groupby kind -o a.png -q")
        assert (code, "groupby has no value for 10 of 30" in err) == (0, True)
        assert drawn[-1]["groupby"].categories.tolist() == ["B", "A"]
        assert run(f"plot residuals m.npz {file} --groupby batch --column-groupby sort -o a.png -q")[0] == 0
        assert drawn[-1]["groupby"].tolist() == [0, 1] * 15
        assert drawn[-1]["column_groupby"].tolist() == list("xy") * 6  # in the order of the fitted columns
        assert run(f"report m.npz {file} --groupby batch -o a.html -q")[0] == 0
    assert run("plot group-heatmap m.npz cells.h5ad cells.h5ad --groupby batch -o a.png -q")[0] == 0
    assert drawn[-1]["groupby"].tolist() == [0, 1] * 30
    Path("kind").write_text("C\nD\n" * 15)  # a file comes first
    assert run("plot structure m.npz cells.h5ad --groupby kind -o a.png -q")[0] == 0
    assert drawn[-1]["groupby"].tolist() == ["C", "D"] * 15
    for counts, message in (
        ("cells.h5ad", "expected a file or a column of .obs of cells.h5ad, which are batch, kind, got 'batches'"),
        ("X.npz", "no file batches; the name of a column of .obs needs COUNTS in .h5ad or .zarr"),
    ):
        code, _, err = run(f"report m.npz {counts} --groupby batches -o b.html -q")
        assert (code, f"argument --groupby: {message}" in err) == (2, True)
    assert "argument --groupby: it needs COUNTS" in run("report m.npz --groupby batch -o b.html")[2]


def test_a_library_that_is_missing_is_named_in_one_sentence(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    Path("X.h5").touch()
    code, out, err = run("info X.h5")
    assert (code, out) == (1, "")  # nothing is wrong with the command line
    assert err == "fastpmf info: error: reading .h5 of 10x Genomics needs h5py: pip install 'fastpmf[anndata]'\n"


def test_transpose_fits_the_columns(run):
    assert run("fit X.npz --transpose -k 2 -o model.npz --max-iter 5 -q")[0] == 0
    assert PoissonNMF.load("model.npz").components_.shape == (2, 30)


def test_quiet_says_nothing_on_standard_error(run):
    assert run("fit X.npz -k 2 -o model.npz --max-iter 5 -q")[2] == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fit absent.npz -k 2 -o m.npz", "no file absent.npz"),
        ("fit X.doc -k 2 -o m.npz", "X.doc has no name of a known format; give format, one of npz, mtx"),
        ("fit X.npz -k 2 -o m.npz --layer raw", "layer is an option of 10x-h5, h5ad, zarr only, and X.npz is npz"),
        ("fit X.npz -k 2 -o m.npz --columns a,b", "columns is an option of csv, tsv, parquet only"),
        ("fit X.npz -k 2 -o m.npz --format doc", "got 'doc'; did you mean 'docword'?"),
        ("convert X.npz -o X.mtx", "X.mtx exists and is not a folder of .npy, which could be replaced"),
        ("convert X.npz -o X.npz", "every output must be a different file"),
        ("convert X.npz -o absent/X", "no folder absent"),
        ("info folder.npz --format 10x-mtx", "folder.npz can't be read as 10x-mtx: it has no matrix.mtx"),
        ("fit short.npz -k 2 -o m.npz", "short.npz can't be read as npz"),
        ("fit short.mtx -k 2 -o m.npz", "short.mtx can't be read as mtx"),
        ("fit short.mtx.gz -k 2 -o m.npz", "short.mtx.gz can't be read as mtx"),
        ("fit negative.npz -k 2 -o m.npz", "negative.npz must hold counts >= 0, got -1"),
        ("fit X.npz -k 0 -o m.npz", "argument -k/--components: expected an integer >= 1, got '0'"),
        ("fit X.npz -k 2 --tol -1 -o m.npz", "argument --tol: expected a number >= 0, got '-1'"),
        ("fit X.npz -k 2 --seed -1 -o m.npz", "argument --seed: expected an integer >= 0, got '-1'"),
        ("select X.npz -k 2 --splits 0", "argument --splits: expected an integer >= 1, got '0'"),
        ("fit X.npz -k 13 --init nndsvd -o m.npz", "components"),
        ("fit X.npz -k 2 --threads 0 -o m.npz", "argument -j/--threads: expected an integer >= 1, got '0'"),
        ("fit X.npz -k 2 -o m.txt", "must be a .npz file"),
        ("fit X.npz -k 2 -o absent/m.npz", "no folder absent"),
        ("fit X.npz -k 2 -o m.npz --solver newton", "--solver: expected one of auto, cd, em, mu, got 'newton'"),
        ("fit X.npz -o m.npz", "required"),
        ("transform X.npz X.npz -o W.npy", "not a valid fastpmf model file"),
        ("transform absent.npz X.npz -o W.npy", "absent.npz"),
        ("nothing", "argument COMMAND: expected one of fit, transform, "),
        ("fit X.npz -k 2 -o m.npz --factors m.npz", "every output must be a different file"),
        ("fit X.npz -k 2 -o m.npz --factors m.txt", "--factors must be a .npz or .h5ad file, got 'm.txt'"),
        ("fit - -k 2 -o m.npz", "argument --format: needed with standard input"),
        ("recommend X.npz X.npz", "not a valid fastpmf model file"),
        ("transform m.npz X.npz -o - --json", "argument --json: it writes to standard output, and so does -o -"),
        ("warmup -k 0", "--components"),
        ("fit X.npz -k 2 -o X.npz", "every output must be a different file"),
        ("fit X.npz -k 2 -o folder.npz", "folder.npz is a folder"),
        ("fit folder.npz -k 2 -o m.npz", "folder.npz is a folder"),
        ("fit empty.npz -k 2 -o m.npz", "empty, truncated or of another kind"),
        ("demo --plot absent/demo.png", "no folder absent"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2_and_writes_nothing(run, line, message):
    for name in ("X.npz", "X.mtx", "X.mtx.gz"):
        content = Path(name).read_bytes()
        Path(name.replace("X", "short", 1)).write_bytes(content[: len(content) * 2 // 3])
    sparse.save_npz("negative.npz", sparse.csr_array(np.array([[1, -1]])))
    Path("folder.npz").mkdir()
    Path("empty.npz").touch()
    Path("X.doc").touch()
    before = sorted(os.listdir())
    code, _, err = run(line)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert sorted(os.listdir()) == before


def test_an_interrupted_fit_writes_what_there_is(run, monkeypatch):
    real = PoissonNMF.fit_transform

    def interrupted(self, *args, **kwargs):
        def stop(record, W, H):
            if record.n_iter == 25:
                raise KeyboardInterrupt

        return real(self.set_params(callback=stop), *args, **kwargs)

    monkeypatch.setattr(PoissonNMF, "fit_transform", interrupted)
    code, _, err = run("fit X.npz -k 2 -o model.npz -q")
    assert code == 130
    assert "the model fitted so far is written" in err
    assert PoissonNMF.load("model.npz").n_iter_ == 25


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_reported_once_and_not_as_one_from_the_keyboard(run, monkeypatch, number):
    real = PoissonNMF.fit_transform

    def interrupted(self, *args, **kwargs):
        def stop(record, W, H):
            if record.n_iter == 25:
                signal.raise_signal(number)

        return real(self.set_params(callback=stop), *args, **kwargs)

    monkeypatch.setattr(PoissonNMF, "fit_transform", interrupted)
    code, out, err = run("fit X.npz -k 2 -o model.npz")
    assert code == 128 + number
    assert f"{out}{err}".lower().count("interrupt") == 1
    assert err.endswith("fastpmf fit: interrupted, the model fitted so far is written: model.npz\n")
    assert "keyboard" not in str(PoissonNMF.load("model.npz").status_)


def test_an_interrupt_while_the_commands_are_imported_is_one_line(run, monkeypatch):
    class Interrupt:
        @staticmethod
        def find_spec(name, *_):
            if name == "fastpmf.cli.parser":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "fastpmf.cli.parser", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupt, *sys.meta_path])
    assert run("info X.npz") == (130, "", "fastpmf: interrupted, nothing was written\n")


def test_numbers_of_components_are_compared_with_the_weak_prior_of_python_by_default(run, monkeypatch):
    fitted = []
    monkeypatch.setattr(commands, "select_n_components", lambda X, k, estimator, **_: fitted.append(estimator) or 1 / 0)
    for options, priors in (
        ("", ["auto", "auto"]),
        (" --prior none", [None, None]),
        (" --prior-W none", [None, "auto"]),
    ):
        with pytest.raises(ZeroDivisionError):
            run(f"select X.npz -k 2 3 -q{options}")
        assert [fitted[-1].prior_W, fitted[-1].prior_H] == priors
    run("fit X.npz -k 2 -o m.npz -q --max-iter 2")
    assert PoissonNMF.load("m.npz").prior_W is None
    assert "(default: auto)" in " ".join(run("select --help")[1].split())


def test_an_interrupted_selection_prints_the_splits_that_are_done(run, monkeypatch):
    calls, real = [], PoissonNMF.fit_transform

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:  # after those of a split: a rough one, and one for each number
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(PoissonNMF, "fit_transform", interrupted)
    code, out, err = run("select X.npz -k 1 2 --splits 3 -q --json")
    assert code == 130
    assert err == "fastpmf select: interrupted, the table is that of the completed splits\n"
    assert np.array(json.loads(out)["log_likelihood"]).shape == (2, 1)
    calls.clear()
    calls.extend([1, 1])
    assert run("select X.npz -k 1 2 -q")[:2] == (130, "")


def test_a_consensus_is_a_model_with_a_table_a_plot_and_weights(shop):
    line = "consensus shop -k 2 --replicates 3 --density-threshold 1.5 -o agreed.npz -q"
    code, out, err = shop(f"{line} --weights W.csv --plot c.png --row-exposure 2")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split("\t") == ["component", "stability", "kept", "share"]
    assert len(out.splitlines()) == 3
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")
    found = Consensus.load("agreed.npz")
    W = np.loadtxt("W.csv", delimiter=",", skiprows=1, usecols=(1, 2))
    np.testing.assert_allclose(W, found.W)
    assert shop("topics agreed.npz -n 2")[0] == 0
    assert shop("plot consensus shop.npz -o c.png")[2].endswith("it holds a model without a consensus\n")
    for resample in ("rows", "counts"):
        assert shop(f"{line} --resample {resample}")[:2] != (0, out)
    code, _, err = shop(f"{line} --resample counts --values log2")
    assert code == 2
    assert "log2 makes fractions" in err


def test_an_interrupted_consensus_is_that_of_the_fits_that_are_done(shop, monkeypatch):
    calls, real = [], PoissonNMF.fit

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(PoissonNMF, "fit", interrupted)
    code, out, err = shop("consensus shop -k 2 --replicates 6 --density-threshold 1.5 -o agreed.npz -q")
    assert code == 130
    assert err == ("fastpmf consensus: interrupted, the consensus of 3 fits is written: agreed.npz\n")
    assert len(out.splitlines()) == 3
    assert len(Consensus.load("agreed.npz").distance) == 3


def test_recommendations_are_those_of_the_model_by_name(run):
    table = [f"user {i},item {j},{1 + (i + j) % 3}\n" for i in range(6) for j in range(5) if (i * j) % 3 == 0]
    Path("X.csv").write_text("who,what,n\n" + "".join(table))
    run("fit X.csv -k 2 -o model.npz --max-iter 500 --tol 0.01 -q")
    code, out, _ = run("recommend model.npz X.csv -n 3")
    assert code == 0
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["row", "rank", "item", "rate"]
    data, model = read_counts("X.csv"), PoissonNMF.load("model.npz")
    found = model.recommend(data, n=3)
    seen = data.X.toarray() > 0
    expected = [
        [row, str(r), data.column_names[j], f"{rate:.6g}"]
        for i, row in enumerate(data.row_names)
        for r, (j, rate) in enumerate(zip(found.indices[i], found.rates[i], strict=True), 1)
        if j >= 0
    ]
    assert lines[1:] == expected
    assert not any(
        seen[list(data.row_names).index(row), list(data.column_names).index(item)] for row, _, item, _ in expected
    )
    code, out, _ = run(["recommend", "model.npz", "X.csv", "--rows", "user 4", "user 1", "--seen", "--json", "-n", "5"])
    assert [each["row"] for each in json.loads(out)] == ["user 4"] * 5 + ["user 1"] * 5
    assert [each["rank"] for each in json.loads(out)] == [1, 2, 3, 4, 5] * 2
    assert run("recommend model.npz X.csv -o best.csv")[:2] == (0, "")
    assert Path("best.csv").read_text().startswith("row,rank,item,rate\n")
    assert "argument --rows: no row eve in X.csv" in run("recommend model.npz X.csv --rows eve")[2]


def test_names_that_span_lines_and_cells_stay_in_a_cell(run):
    Path("X.csv").write_text('who,what,n\nada,"x\ny",2\nbob,"t\tea",1\n')
    run("fit X.csv -k 1 -o model.npz --max-iter 5 -q")
    command = "recommend model.npz X.csv --seen -n 2"
    assert [row["item"] for row in table(run(command)[1])] == ["x y", "t?ea"] * 2
    assert [row["item"] for row in json.loads(run(f"{command} --json")[1])] == ["x\ny", "t\tea"] * 2
    run(f"{command} -o best.csv")
    with open("best.csv", newline="") as file:
        assert [row["item"] for row in csv.DictReader(file)] == ["x\ny", "t\tea"] * 2


@pytest.fixture
def shop(run):
    """Purchases with names, their parts of a split, a model of each, and files of groups and names."""
    rng = np.random.default_rng(1)
    X = rng.poisson(rng.gamma(0.5, 2.0, (40, 2)) @ rng.gamma(0.5, 2.0, (2, 15)))
    users, items = (np.array([f"{name}{i}" for i in range(n)]) for name, n in (("user", 40), ("item", 15)))
    write_counts("shop", Dataset(sparse.csr_array(X), users, items))
    for name, n in (("row", 40), ("column", 15)):
        Path(f"{name}_groups.txt").write_text("".join(f"{'ab'[i % 2]}\n" for i in range(n)))
    assert run("split shop --train train --test test")[0] == 0
    for folder in ("shop", "train"):
        assert run(f"fit {folder} -k 2 --prior auto -o {folder}.npz -q --weights {folder}_W.npy")[0] == 0
    assert run("fit shop -k 2 --model hpf -o hpf.npz -q")[0] == 0
    return run


JSON = {
    "info shop": {"n_rows", "n_columns", "nonzeros", "dtype", "total", "empty_rows", "row_names"},
    "info shop.npz": {"kind", "n_components", "n_features", "objective", "kkt_residual", "status"},
    "info hpf.npz": {"kind", "n_components", "n_features", "bound", "residual", "status"},
    "fit shop -k 2 -o m.npz --max-iter 5 -q": {"n_rows", "nonzeros", "objective", "status", "seconds", "model"},
    "fit shop -k 2 -o m.npz --model hpf --learn-prior --max-iter 5 -q": {"bound", "residual", "model"},
    "transform shop.npz shop -o W.npy": {"n_rows", "n_components", "weights"},
    "transform hpf.npz shop -o W.csv": {"n_rows", "n_components", "weights"},
    "select shop -k 1 2 --splits 1 -q": {"n_components", "log_likelihood", "error", "similarity", "recommended"},
    "select shop -k 1 2 --model hpf --splits 1 -q --max-iter 5": {"n_components", "log_likelihood", "recommended"},
    "consensus shop -k 2 --replicates 3 --density-threshold 1.5 -o m.npz -q": {"stability", "distance", "model"},
    "topics shop.npz": ["component", "rank", "feature", "score"],
    "topics hpf.npz": ["component", "rank", "feature", "score"],
    "recommend shop.npz shop": ["row", "rank", "item", "rate"],
    "similar shop.npz item3": ["item", "rank", "similar", "similarity"],
    "differential shop.npz shop": [
        "component", "rank", "feature", "lower_bound", "log2_fold_change", "standard_error", "against",
    ],
    "overdispersion shop.npz shop -n 3": {"dispersion", "z_score", "p_value", "n_overdispersed", "features"},
    "intervals shop.npz shop --draws 3 -n 2 -q": ["component", "rank", "feature", "mean", "low", "high", "in_top"],
    "evaluate shop.npz shop": {"n_rows", "total", "log_likelihood"},
    "evaluate train.npz test --train train -n 3": {
        "log_likelihood", "log_likelihood_without_structure", "precision", "recall", "ndcg", "popularity",
        "n_ranked_rows",
    },
    "split shop --train a --test b": {"train", "test"},
    "plot top-features shop.npz -o plot.svg -q": {"plot"},
    "report shop.npz -o report.html -q": {"report"},
    "convert shop -o folder": {"n_rows", "nonzeros", "folder"},
    "plan shop -k 2": [
        "k", "input_bytes", "transpose_bytes", "factor_bytes", "total_bytes", "limit_bytes", "fits",
    ],
    "warmup -k 2 -q": ["n_components", "counts_dtype", "seconds"],
    "demo -k 2 -q": {"n_rows", "topics", "deviance_explained", "saved"},
    "versions": {"fastpmf", "numba", "threads"},
}  # fmt: skip


@pytest.mark.parametrize("line", JSON)
def test_json_is_one_document_and_nothing_else(shop, line, monkeypatch):
    monkeypatch.setattr("fastpmf.utils.progress.DELAY", 600.0)  # compilation, if it comes to that, may take seconds
    code, out, err = shop(f"{line} --json")
    assert (code, err) == (0, "")
    found = json.loads(out, parse_constant=pytest.fail)  # no NaN, which is no JSON
    if isinstance(JSON[line], list):
        assert all(list(row) == JSON[line] for row in found)
        assert found
    else:
        assert JSON[line] <= set(found)


def test_every_command_has_json_and_help_that_fits_a_terminal(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    commands = re.findall(r"^  ([a-z]+) {2,}", run("--help")[1].partition("COMMAND is one of")[2], re.MULTILINE)
    plots = re.findall(r"^  ([a-z-]+) {2,}", run("plot --help")[1].partition("NAME is one of")[2], re.MULTILINE)
    assert set(commands) == {line.split()[0] for line in JSON} | {"completion"}
    assert [name.replace("-", "_") for name in sorted(plots)] == fastpmf.plot.__all__
    assert max(map(len, run("--help")[1].splitlines())) <= 80
    for command in [*commands, *(f"plot {name}" for name in plots)]:
        code, out, err = run(f"{command} --help")
        assert (code, err) == (0, "")
        assert f"\n  fastpmf {command}" in out  # an example
        assert f"\nusage: fastpmf {command}" in out
        assert max(map(len, out.splitlines())) <= 80, command
        assert ("--json" in out) == (command not in ("completion", "plot"))


PLOTS = {
    "structure shop.npz shop --groupby row_groups.txt --groups b a --order given": {"0", "1", "a", "b"},
    "group-heatmap shop.npz shop --groupby row_groups.txt": {"a", "b", "mean topic proportion"},
    "similarity-heatmap shop.npz hpf.npz": {"component of the other fit"},
    "top-features shop.npz -n 3 --components 1 --by lift --min-weight 0.001": {"component 1", "lift"},
    "differential shop.npz shop --component 1 -n 2 --shrink": {"component 1", "log2 fold change"},
    "convergence shop.npz train.npz --by n_iter --names whole part": {"whole", "part"},
    "selection k.json": {"number of components"},
    "consensus agreed.npz": {"similarity", "stability"},
    "intervals draws.npz --components 1 -n 2": {"component 1", "P(feature | component)"},
    "overdispersion shop.npz shop --top 2": {"mean rate of the feature"},
    "component-gains train.npz test --train train": {"component"},
    "calibration train.npz test --train train --bins 5": {"mean expected count per entry"},
    "residuals shop.npz shop --weights shop_W.npy --groupby row_groups.txt --column-groupby column_groups.txt": {"a"},
}


@pytest.mark.parametrize("line", PLOTS)
def test_every_plot_is_drawn_with_its_labels(shop, line):
    Path("k.json").write_text(shop("select shop -k 1 2 --splits 2 -q --json --max-iter 5")[1])
    shop("consensus shop -k 2 --replicates 2 --density-threshold 1.5 -o agreed.npz -q")
    shop("intervals shop.npz shop --draws 2 --draws-file draws.npz -q")
    with plt.rc_context({"svg.fonttype": "none"}):
        code, out, err = shop(f"plot {line} -o plot.svg -q")
    assert (code, out, err) == (0, "plot in plot.svg\n", "")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", Path("plot.svg").read_text("utf-8"))
    assert PLOTS[line] <= set(texts), texts


def test_numbers_of_components_are_plotted_and_tabulated_at_once(run):
    code, out, _ = run("select X.npz -k 2 3 --splits 1 --replicates 2 -q --json")
    found = json.loads(out)
    assert len(found["silhouette"]) == len(found["divergence"]) == 2
    Path("k.json").write_text(out)
    assert run("plot selection k.json -o k.svg")[0] == 0
    Path("k.json").write_text(json.dumps(found | {"divergence": [1]}))
    assert "must be the output of `fastpmf select --json`" in run("plot selection k.json -o k.svg")[2]
    header = run("select X.npz -k 2 3 --splits 1 --replicates 2 -q")[1].splitlines()[0].split("\t")
    assert header[-3:] == ["silhouette", "divergence", "choice"]
    code, out, _ = run("select X.npz -k 1 2 --splits 2 -q --plot k.png -o k.csv")
    assert (code, out) == (0, "")
    assert Path("k.png").read_bytes().startswith(b"\x89PNG")
    assert Path("k.csv").read_text().splitlines()[0] == "k,log_likelihood,error,similarity,seconds,excess,choice"


def test_rows_are_held_out_where_counts_are_not_whole(run):
    assert "--holdout rows" in run("select X.npz -k 1 2 --values log2 --holdout counts")[2]
    code, out, _ = run("select X.npz -k 1 2 --values log2 --holdout rows --splits 1 -q --json")
    assert code == 0
    assert json.loads(out)["n_components"] == [1, 2]


def test_overdispersion_is_that_of_the_model(shop):
    rows = table(shop("overdispersion shop.npz shop -n 3 --weights shop_W.npy")[1])
    model, data = PoissonNMF.load("shop.npz"), read_counts("shop")
    found = model.overdispersion(data, np.load("shop_W.npy"))
    assert [row["feature"] for row in rows] == found.names[found.top(3)].tolist()
    assert [float(row["z_score"]) for row in rows] == pytest.approx(found.z_score[found.top(3)], rel=1e-5)
    assert set(rows[0]) == {"feature", *found.to_frame()}
    shop("overdispersion shop.npz shop -n 15 -o table.csv")
    assert len(Path("table.csv").read_text().splitlines()) == 16


def test_intervals_are_those_of_the_draws_in_the_file(shop):
    line = "intervals shop.npz shop --draws 5 --level 0.5 -n 2 -q"
    for method, kind in {"rows": Bootstrap, "poisson": Bootstrap, "posterior": PosteriorDraws}.items():
        code, out, err = shop(f"{line} --method {method} --draws-file draws.npz --plot intervals.png")
        assert (code, err) == (0, "")
        found = FactorDraws.load("draws.npz")
        assert type(found) is kind
        low, high = found.feature_shares.interval(0.5)
        rows, names = table(out), found.feature_names.tolist()
        assert [row["component"] for row in rows] == ["0", "0", "1", "1"]
        for row in rows:
            at = int(row["component"]), names.index(row["feature"])
            assert [float(row[end]) for end in ("low", "high")] == pytest.approx([low[at], high[at]], rel=1e-5)
        assert Path("intervals.png").read_bytes().startswith(b"\x89PNG")
    model, data = PoissonNMF.load("shop.npz"), read_counts("shop")
    same = model.sample_posterior(data, 5, random_state=0)
    assert same.H.values.tobytes() == found.H.values.tobytes()
    shop(f"{line} --method posterior --thin 2 --burn-in 3 --row-exposure 2 --draws-file draws.npz")
    same = model.sample_posterior(
        data, 5, thin=2, burn_in=3, row_exposure=np.full(data.X.shape[0], 2.0), random_state=0
    )
    assert same.H.values.tobytes() == FactorDraws.load("draws.npz").H.values.tobytes()
    assert shop("intervals hpf.npz shop --draws 2 -q")[0] == 0
    for options, message in {
        "hpf.npz shop --method rows": "argument --method: expected posterior for an HPF model, got rows",
        "shop.npz shop --thin 2": "argument --thin: it needs --method posterior",
        "shop.npz shop --draws 1": "argument --draws: expected an integer >= 2, got '1'",
    }.items():
        code, _, err = shop(f"intervals {options}")
        assert code == 2
        assert message in err


def test_interrupted_intervals_are_those_of_the_draws_so_far(shop, monkeypatch):
    calls, sweep = [], Chain.sweep

    def interrupted(chain):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        sweep(chain)

    monkeypatch.setattr(Chain, "sweep", interrupted)
    line = "intervals hpf.npz shop --draws 9 --burn-in 0 --thin 1 -n 1 --draws-file draws.npz -q"
    code, out, err = shop(line)
    assert code == 130
    assert err == "fastpmf intervals: interrupted, the intervals are those of 5 draws, written: draws.npz\n"
    assert len(table(out)) == 2
    assert len(FactorDraws.load("draws.npz")) == 5


def test_similar_columns_are_those_of_the_model(shop):
    rows, model = table(shop("similar shop.npz item3 item0 -n 2")[1]), PoissonNMF.load("shop.npz")
    assert [row["item"] for row in rows] == ["item3", "item3", "item0", "item0"]
    assert [row["similar"] for row in rows] == model.similar_items(["item3", "item0"], 2).names.ravel().tolist()
    code, _, err = shop("similar shop.npz Item14")
    assert code == 2
    assert err == (
        "fastpmf similar: error: argument ITEM: expected a fitted column, got 'Item14'; did you mean 'item14'?\n"
    )


def test_differential_features_are_those_of_the_model(shop):
    rows, model = table(shop("differential shop.npz shop -n 3 --weights shop_W.npy")[1]), PoissonNMF.load("shop.npz")
    expected = model.differential_expression(read_counts("shop"), np.load("shop_W.npy")).top(3).names
    assert [row["feature"] for row in rows] == expected.ravel().tolist()


def test_scores_are_those_of_the_functions(shop):
    facts = json.loads(shop("evaluate train.npz test --train train -n 3 --json")[1])
    train, test, model = read_counts("train"), read_counts("test"), PoissonNMF.load("train.npz")
    W, exposure = model.transform(train), test.X.sum(dtype=float) / train.X.sum(dtype=float)
    expected = fastpmf.heldout_log_likelihood(train, W, model.components_, test, exposure=exposure)
    assert facts["log_likelihood"] == pytest.approx(expected, rel=1e-9)
    assert facts["log_likelihood"] > facts["log_likelihood_without_structure"]
    ranking = fastpmf.ranking_scores(test, W, model.components_, 3, exclude=train)
    assert facts["ndcg"] == pytest.approx(ranking.ndcg)
    code, out, _ = shop("evaluate shop.npz shop")
    assert code == 0
    assert f"log-likelihood {PoissonNMF.load('shop.npz').score(read_counts('shop')):.6g} nats per count" in out


@pytest.mark.parametrize("by", ["thinning", "entries"])
def test_the_parts_of_a_split_add_up_and_keep_the_names(shop, by):
    code, out, _ = shop(f"split shop --train a --test b --by {by} --fraction 0.3 --seed 4")
    assert code == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == ["train", "test"]
    whole, a, b = map(read_counts, ("shop", "a", "b"))
    np.testing.assert_array_equal((a.X + b.X).toarray(), whole.X.toarray())
    assert b.X.sum() > 0
    for part in (a, b):
        assert part.row_names.tolist() == whole.row_names.tolist()
        assert part.column_names.tolist() == whole.column_names.tolist()


def test_a_fit_writes_a_report_and_report_writes_one_of_a_model(shop):
    assert "report in report.html" in shop("fit shop -k 2 -o m.npz -q --report report.html")[1]
    assert "item3" in Path("report.html").read_text("utf-8")
    assert shop(["report", "m.npz", "shop", "-o", "other.html", "--title", "Two kinds"])[0] == 0
    assert "<h1>Two kinds</h1>" in Path("other.html").read_text("utf-8")


def test_files_are_put_together_and_named_from_other_files(shop):
    Path("rows.txt").write_text("".join(f"r{i}\n" for i in range(60)))
    Path("columns.txt").write_text("".join(f"c{j}\n" for j in range(12)))
    line = "convert X.npz X.mtx --row-names rows.txt --column-names columns.txt -o both"
    assert shop(line)[0] == 0
    both, X = read_counts("both"), sparse.load_npz("X.npz").toarray()
    np.testing.assert_array_equal(both.X.toarray(), np.vstack([X, X]))
    assert both.row_names[[0, 59]].tolist() == ["r0", "r59"]
    assert both.column_names[11] == "c11"
    assert "expected 30 lines, one for each row, got 60 in rows.txt" in shop("info X.npz --row-names rows.txt")[2]
    assert "columns" in shop("convert shop both -o other")[2]
    assert shop("convert shop both --join outer -o outer")[0] == 0
    assert read_counts("outer").X.shape == (100, 27)


def test_priors_are_given_by_name_or_by_number(run):
    command = "fit X.npz -k 2 -o m.npz -q --max-iter 3"
    for option, prior_W, prior_H in (
        ("--prior auto", "auto", "auto"),
        ("--prior 1.5,0.25", (1.5, 0.25), (1.5, 0.25)),
        ("--prior none --prior-H sparse", None, "sparse"),
    ):
        assert run(f"{command} {option}")[0] == 0
        model = PoissonNMF.load("m.npz")
        assert (model.prior_W, model.prior_H) == (prior_W, prior_H)
    assert run(f"{command} --model hpf --a 0.5 --learn-prior")[0] == 0
    assert (HPF.load("m.npz").a, HPF.load("m.npz").learn_prior) == (0.5, True)
    assert "argument --prior: an option of --model poisson, got --model hpf" in run(
        f"{command} --model hpf --prior auto"
    )[2]  # fmt: skip
    assert "argument --a: an option of --model hpf" in run(f"{command} --a 0.5")[2]


def test_held_out_counts_of_a_file_stop_a_fit(shop):
    assert shop("fit train -k 2 -o m.npz -q --validation test")[0] == 0
    assert len(PoissonNMF.load("m.npz").validation_) > 0
    assert shop("fit shop -k 2 -o m.npz -q --validation 0.2")[0] == 0
    assert "validation must be a fraction between 0 and 1" in shop("fit shop -k 2 -o m.npz --validation 2")[2]


def test_what_is_known_beside_the_counts_is_read_by_name(shop):
    data, given = read_counts("shop"), np.arange(1.0, 41.0)
    Path("e.tsv").write_text("".join(f"{name}\t{x}\n" for name, x in zip(data.row_names, given, strict=True) if x > 0))
    lines = Path("e.tsv").read_text().splitlines(keepends=True)
    Path("e.tsv").write_text("".join(lines[::-1]))
    np.save("e.npy", given)
    for file in ("e.tsv", "e.npy"):
        assert shop(f"fit shop -k 2 -o {file}.npz -q --row-exposure {file} --max-iter 5")[0] == 0
    expected = PoissonNMF(2, max_iter=5, random_state=0, verbose=False)
    with pytest.warns(ConvergenceWarning):
        expected.fit(data, row_exposure=given)
    for file in ("e.tsv", "e.npy"):
        np.testing.assert_array_equal(PoissonNMF.load(f"{file}.npz").components_, expected.components_)
    assert "argument --row-exposure: no file absent" in shop("fit shop -k 2 -o m.npz --row-exposure absent")[2]


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_shells_complete_commands_and_options(run, shell):
    pytest.importorskip("shtab")
    code, out, err = run(f"completion {shell}")
    assert (code, err) == (0, "")
    assert "recommend" in out
    assert "max-iter" in out


def test_both_factors_go_to_a_file_for_other_programs_and_a_prior_is_kept(run):
    assert run("fit X.npz -k 2 --prior sparse -o model.npz --factors factors.npz --max-iter 5 -q")[0] == 0
    factors, model = np.load("factors.npz"), PoissonNMF.load("model.npz")
    assert factors["W"].shape == (30, 2)
    np.testing.assert_array_equal(factors["H"], model.components_)
    assert model.prior_W == "sparse"
    assert model.prior_W_ is not None


def test_fitted_features_that_a_file_lacks_are_not_observed_and_counted(run):
    rng = np.random.default_rng(0)
    X, names = rng.poisson(9.0, (30, 20)), np.array([f"g{j}" for j in range(20)])
    write_counts("all", Dataset(sparse.csr_array(X), None, names))
    write_counts("part", Dataset(sparse.csr_array(X[:, :7:-1]), None, names[:7:-1]))
    run("fit all -k 2 -o model.npz -q --tol 1e-6")
    model, mask = PoissonNMF.load("model.npz"), np.zeros(X.shape, bool)
    mask[:, :8] = True
    seen, zeros = (
        np.where(mask, 0, X),
        {"--missing zero": "treated as counts of 0", "": "treated as not observed; --missing"},
    )
    for option, message in zeros.items():
        code, _, err = run(f"transform model.npz part -o W.npy {option}")
        assert code == 0
        assert err.startswith(f"fastpmf: part lacks 8 of the 20 fitted columns: {message}")
        expected = model.transform(Dataset(seen, None, names), mask=None if option else mask)
        W = np.load("W.npy")
        np.testing.assert_allclose(W, expected, rtol=1e-3)  # rows stop at tol=1e-6 nats per count
    rows = table(run("recommend model.npz part -n 1 --seen --missing unobserved")[1])
    rates = W @ model.components_
    assert [row["item"] for row in rows] == names[rates.argmax(axis=1)].tolist()
    np.testing.assert_allclose([float(row["rate"]) for row in rows], rates.max(axis=1), rtol=1e-5)  # six digits of it


def test_all_rows_of_a_name_are_recommended_for(run):
    X = sparse.csr_array(sparse.load_npz("X.npz"))
    write_counts("rows", Dataset(X, np.array(["ada", "bob", "ada", *map(str, range(27))])))
    run("fit rows -k 2 -o model.npz -q --max-iter 5")
    lines = run("recommend model.npz rows --rows ada -n 1 --seen")[1].splitlines()
    assert len(lines) == 3


def test_what_was_fitted_is_kept_and_named_where_writing_fails(run, monkeypatch):
    def fail(path, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    for name, option in (("write_factor", "--weights W.npy"), ("write_factors", "--factors f.npz")):
        with monkeypatch.context() as patch:
            patch.setattr(f"fastpmf.cli.commands.{name}", fail)
            code, _, err = run(f"fit X.npz -k 2 --max-iter 5 -q -o model.npz {option}")
        assert code == 1
        message = f"{option.split()[1]}: No space left on device; the model fitted so far is written: model.npz"
        assert err == f"fastpmf fit: error: {message}\n"
        assert PoissonNMF.load("model.npz").n_iter_ == 5
        Path("model.npz").unlink()
    save = PoissonNMF.save
    monkeypatch.setattr(PoissonNMF, "save", lambda self, path: fail(path) if path == "model.npz" else save(self, path))
    monkeypatch.setattr("tempfile.tempdir", str(Path.cwd()))
    code, _, err = run("fit X.npz -k 2 --max-iter 5 -q -o model.npz")
    assert code == 1
    message, place = err.split("; the model is in ")
    assert message == "fastpmf fit: error: model.npz could not be written: No space left on device"
    assert PoissonNMF.load(place.strip()).n_iter_ == 5


def test_what_factors_need_is_checked_before_the_fit(run, monkeypatch):
    monkeypatch.setattr(PoissonNMF, "fit_transform", pytest.fail)
    for option, message in (("f.txt", "--factors must be a .npz or .h5ad file"), ("absent/f.npz", "no folder absent")):
        code, _, err = run(f"fit X.npz -k 2 -o model.npz --factors {option}")
        assert (code, message in err) == (2, True)
    monkeypatch.setitem(sys.modules, "anndata", None)
    assert "writing .h5ad needs anndata" in run("fit X.npz -k 2 -o model.npz --factors f.h5ad")[2]


def test_a_fit_that_time_ends_says_how_far_it_is(run):
    code, out, _ = run("fit X.npz -k 2 -o model.npz -q --max-time 1e-9")
    model = PoissonNMF.load("model.npz")
    assert code == 0
    for text in (out, run("info model.npz")[1]):
        assert f"kkt_residual {model.kkt_residual_:.2g} nats per count (tol 0.0001)\n" in text
        assert f"{model.status_} These were {model.n_iter_} of at most 500 iterations.\n" in text
    facts = json.loads(run("info model.npz --json")[1])
    assert (facts["status"], facts["n_iter"], facts["tol"]) == ("MAX_TIME", model.n_iter_, 1e-4)
    assert facts["max_iter"] == 500


def test_options_that_say_what_to_read_reach_every_command(run):
    Path("pairs.csv").write_text("user_id,item_id\na,x\nb,y\n")
    code, out, err = run("info pairs.csv")
    assert code == 0
    assert "looks like a header: give header=True, or columns by these names, if it is one, else header=False" in err
    assert out.startswith("3 x 3 counts")
    for option in ("--header", "--columns user_id,item_id"):
        assert run(f"info pairs.csv {option}")[1].startswith("2 x 2 counts")
    assert run("info pairs.csv --no-header")[2] == ""
    write_tenx(Path("cells"), KINDS)
    code, out, err = run("info cells")
    assert "feature_types selects others" in err
    assert out.startswith("3 x 3 counts")
    code, out, err = run(
        ["convert", "cells", "--feature-types", "Peaks,Antibody Capture", "--feature-names", "id", "-o", "Y", "-q"]
    )
    assert err == ""
    assert read_counts("Y").column_names.tolist() == ["E1", "E3"]
    assert "header is an option of csv, tsv only" in run("info X.npz --header")[2]
    assert (
        "--columns and --header are for tables, which can't be streamed"
        in run("fit X.npz --header --stream -k 1 -o m.npz")[2]
    )


@pytest.fixture
def piped(run, monkeypatch):
    """Run a command line with bytes on its standard input, as a shell pipes them."""

    def call(content, line):
        reader, writer = os.pipe()
        with open(writer, "wb") as file:  # at most the 64 KiB that a pipe holds before anybody reads
            file.write(content)
        before = os.dup(0)
        os.dup2(reader, 0)
        try:
            with open(reader, encoding="utf-8") as standard_input, monkeypatch.context() as patch:
                patch.setattr(sys, "stdin", standard_input)
                return run(line)
        finally:
            os.dup2(before, 0)
            os.close(before)

    return call


@pytest.mark.skipif(sys.platform == "win32", reason="it has no /dev/fd")
def test_counts_and_models_are_read_from_what_a_shell_pipes(counts, piped):
    lines = "".join(f"u{i},i{i % 5},1\n" for i in range(1892)).encode()
    PoissonNMF(2, random_state=0, max_iter=5, tol=0).fit(np.ones((3, 4))).save(counts / "m.npz")
    model = (counts / "m.npz").read_bytes()
    assert piped(lines, "info /dev/stdin --format csv")[1].startswith("1,892 x 5 counts, 1,892 nonzeros")
    assert piped(model, "info /dev/stdin")[1].startswith("PoissonNMF of 2 components")
    assert piped(model, "info -")[1].startswith("PoissonNMF of 2 components")
    assert piped(b"?", "info - --format npz")[2].startswith("fastpmf info: error: - can't be read as npz")
    assert "argument --format: needed with standard input" in piped(b"", "info -")[2]


def test_it_runs_as_a_module_in_a_pipe(counts, piped):
    code, out, _ = piped((counts / "X.mtx").read_bytes(), "fit - --format mtx -k 2 -o m.npz --max-iter 5")
    assert code == 0
    assert "Stopped at max_iter" in out
    command = [sys.executable, "-m", "fastpmf", "transform", "m.npz", "-", "--format", "npz", "-o", "-"]
    given = (counts / "X.npz").read_bytes()
    done = subprocess.run(command, cwd=counts, input=given, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    W = PoissonNMF.load(counts / "m.npz").transform(sparse.load_npz(counts / "X.npz"))
    np.testing.assert_array_equal(np.load(io.BytesIO(done.stdout)), W)
    reader, writer = os.pipe()
    os.close(reader)  # nobody reads: what `| head` does once it has enough
    command = [sys.executable, "-m", "fastpmf", "recommend", "-q", "m.npz", "X.npz"]
    ended = subprocess.run(command, cwd=counts, stdout=writer, stderr=subprocess.PIPE, timeout=120)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_the_demo_prints_topics_draws_the_objective_and_says_what_is_next(run):
    code, out, _ = run("demo -k 5 --plot demo.png")
    assert code == 0
    assert "deviance explained" in out
    assert "iterations in" in out
    assert out.count("           in ") == 5
    assert "\n  fastpmf fit counts.npz -k 20" in out
    with open("demo.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"


def test_the_commands_that_the_demo_suggests_run_on_what_it_saved(run):
    code, out, _ = run("demo -k 5 -q --save stdlib")
    assert code == 0
    suggested = [line.split()[1:] for line in out.splitlines() if line.startswith("  fastpmf ")]
    assert [line[0] for line in suggested] == ["topics", "differential", "report"]
    for line in suggested:
        assert run([*line, "-q"] if line[0] != "topics" else line)[0] == 0
    assert Path("report.html").exists()


def test_the_demo_saves_in_a_new_folder_only(run):
    Path("mine").mkdir()
    Path("mine/model.npz").write_text("a model")
    for folder in ("mine", "X.npz"):
        code, out, err = run(f"demo -k 2 -q --save {folder}")
        assert (code, out) == (2, "")
        assert err == f"fastpmf demo: error: argument --save: expected a new or an empty folder, got {folder}\n"
    assert [path.name for path in Path("mine").iterdir()] == ["model.npz"]
    assert Path("mine/model.npz").read_text() == "a model"
    assert "fastpmf topics 'my demo/model.npz' -n 15\n" in run(["demo", "-k", "2", "-q", "--save", "my demo"])[1]


def test_help_teaches_and_versions_tell(run):
    assert "fastpmf fit counts.npz -k 20 -o model.npz" in run("fit --help")[1]
    assert "threading layer" in run("versions")[1]
    assert run("--version")[1].startswith("fastpmf ")


def test_the_standard_library_is_a_document_term_matrix():
    X, modules, words = load_stdlib()
    assert X.shape == (len(modules), len(words))
    assert X.shape[0] > 200
    assert X.shape[1] > 2000
    assert {"argparse", "asyncio.tasks"} <= set(modules)
    assert X.data.min() >= 1
    assert X.has_canonical_format
    assert list(words) == sorted(set(words))


@pytest.mark.parametrize(("values", "of"), [("binary", np.sign), ("log2", lambda x: np.log2(1 + x))])
def test_counts_are_used_with_the_values_that_are_asked_for(shop, values, of):
    data = read_counts("shop")
    expected = of(data.X.toarray().astype(float))
    code, _, err = shop(f"convert shop --values {values} -o changed")
    assert (code, err) == (0, "")
    changed = read_counts("changed")
    np.testing.assert_allclose(changed.X.toarray(), expected)
    assert changed.row_names.tolist() == data.row_names.tolist()
    line = f"--values {values} -k 2 -q --max-iter 5"
    assert shop(f"fit shop {line} -o a.npz --validation test")[0] == 0
    assert shop(f"fit shop {line} -o b.npz")[0] == 0
    shop("fit changed -k 2 -q --max-iter 5 -o c.npz")
    b, c = (PoissonNMF.load(f"{name}.npz").components_ for name in "bc")
    np.testing.assert_array_equal(b, c)
    rows = [shop(f"recommend b.npz {counts} -n 2 -q --json")[1] for counts in (f"shop --values {values}", "changed")]
    assert rows[0] == rows[1]
    assert "--stream reads counts as they are" in shop(f"fit shop --stream {line} -o d.npz")[2]


def test_values_of_negative_counts_are_an_error(run):
    sparse.save_npz("returns.npz", sparse.csr_array(np.array([[1, -1]])))
    for values in ("binary", "log2"):
        code, _, err = run(f"convert returns.npz --values {values} -o X")
        assert (code, "returns.npz must hold counts >= 0, got -1" in err) == (2, True)


def test_ranking_scores_stand_beside_those_of_popularity(shop):
    assert shop("split shop --by entries --fraction 0.3 --train a --test b")[0] == 0
    assert shop("fit a -k 2 --prior auto -o a.npz -q")[0] == 0
    line = "evaluate a.npz b --train a -n 3 -q"
    found = json.loads(shop(f"{line} --json")[1])["popularity"]
    train, test = read_counts("a"), read_counts("b")
    popular = fastpmf.ranking_scores(test.X, np.ones((40, 1)), train.X.sum(axis=0)[None], 3, exclude=train.X)
    expected = {name: getattr(popular, name) for name in ("precision", "recall", "ndcg")}
    assert found == pytest.approx(expected)
    lines = {line.split()[0]: line.split()[1:] for line in shop(line)[1].splitlines()}
    assert lines["popularity"] == [f"{x:.4f}" for x in expected.values()]
    assert len(lines["model"]) == 3


def test_columns_that_a_row_lacks_count_0_for_recommendations(shop):
    whole = read_counts("shop")
    write_counts("part", Dataset(whole.X[:, :10], whole.row_names, whole.column_names[:10]))
    code, out, err = shop("recommend shop.npz part -n 3")
    assert code == 0
    assert err.startswith("fastpmf: part lacks 5 of the 15 fitted columns: treated as counts of 0")
    X = whole.X.toarray()
    X[:, 10:] = 0
    best = PoissonNMF.load("shop.npz").recommend(Dataset(X, whole.row_names, whole.column_names), n=3)
    assert [row["item"] for row in table(out)] == best.names[best.indices >= 0].tolist()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["similar", "m.npz", "GLASS STAR"], "got 'GLASS STAR'; did you mean 'GLASS STAR FROSTED T-LIGHT HOLDER'?"),
        (["similar", "m.npz", "POCKET FAN"], "got 'POCKET FAN'; did you mean 'POCKET FAN '?"),
        (["similar", "m.npz", "pockt fan"], "got 'pockt fan'; did you mean 'POCKET FAN '?"),
        (["similar", "m.npz", "TEA"], "got 'TEA'"),
        ("fit X.csv -k 2 -o m.npz --iterations 5", "unknown argument '--iterations'"),
        ("fit X.csv -k 2 -o m.npz --max-iters 5", "unknown argument '--max-iters'; did you mean '--max-iter'?"),
        ("fit X.csv --k 5 -o m.npz", "unknown argument '--k'; did you mean '-k'?"),
        ("fit --comp=5", "unknown argument '--comp=5'; did you mean '--components'?"),
        ("--versions", "unknown argument '--versions'; did you mean '--version'?"),
        (
            "info X.csv --columns order product n",
            "argument --columns: expected names or numbers of columns, separated by commas, without spaces, got "
            "'order'",
        ),
        (
            "fit --columns order product n X.csv -k 2 -o m.npz",
            "argument --columns: expected names or numbers of columns, separated by commas, without spaces, got "
            "'order'",
        ),
        (
            "info X.csv --columns order,product n",
            "unknown argument 'n'; separate the columns by commas, without spaces",
        ),
        ("fit X.csv -k5", "the following arguments are required: -o/--output"),
        (
            "info X.csv",
            "X.csv can't be read as csv: it has 4 column(s): give those of row ids, column ids and counts as `columns` "
            "(--columns ROW,COLUMN,COUNT on the command line), by name or by number from 0; for a table with a line "
            "for each row, fit the DataFrame of pandas.read_csv. Its first line is 'order', 'product', 'n', 'country'",
        ),
        ("info X.xlsx", "X.xlsx is a spreadsheet: save it as CSV"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_what_is_close_to_it(run, line, message):
    Path("X.csv").write_text("order,product,n,country\n1,tea,2,UK\n")
    Path("X.xlsx").touch()
    names = np.array(["GLASS STAR FROSTED T-LIGHT HOLDER", "POCKET FAN ", "RED MUG"])
    PoissonNMF(1, max_iter=5, tol=0).fit(Dataset(np.ones((3, 3)), None, names)).save("m.npz")
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert err.partition("error: ")[2].removeprefix("argument ITEM: expected a fitted column, ") == f"{message}\n"


def test_a_rate_is_explained_in_a_terminal_only(shop, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), "utf-8")
    terminal.isatty = lambda: True
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        assert cli.main(["recommend", "shop.npz", "shop", "-n", "1", "-q"]) == 0
    assert terminal.buffer.getvalue().decode().endswith("\nrate: expected count of the item in the row\n")
    assert "expected count" not in shop("recommend shop.npz shop -n 1 -q")[1]


def test_formats_that_need_pyarrow_are_named(run, monkeypatch):
    for module in ("pyarrow", "pyarrow.csv", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    for name, message in (("X.csv", "reading CSV and TSV needs pyarrow"), ("X.parquet", "reading Parquet needs")):
        Path(name).touch()
        code, _, err = run(f"info {name}")
        assert (code, message in err) == (1, True)


def test_numbers_that_are_names_of_columns_are_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = Dataset(np.random.default_rng(0).poisson(1.0, (9, 4)), None, np.array(["3", "1", "0", "17850"]))
    PoissonNMF(2, random_state=0).fit(data).save("m.npz")
    assert cli.main(["similar", "m.npz", "3", "17850", "--top", "1"]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["item", "3", "17850"]


def leaves(parser):
    """The parsers of all commands, and of all plots."""
    if parser._commands is None:
        yield parser
    else:
        for command in parser._commands.choices.values():
            yield from leaves(command)


def test_no_output_of_any_command_may_be_one_of_its_inputs_or_another_output(capsys):
    n_pairs = 0
    for parser in leaves(make_parser()):
        named = {action.dest: action for action in parser._actions}
        for output in parser._outputs:
            for other in parser._inputs + [name for name in parser._outputs if name != output]:
                line = {name: "1" for name, action in named.items() if action.required}
                line |= {output: "one.file", other: "folder/../one.file"}
                words = [text for name, text in line.items() if not named[name].option_strings]
                words += [w for name, text in line.items() for w in [*named[name].option_strings[-1:], text]
                          if named[name].option_strings]  # fmt: skip
                with pytest.raises(SystemExit, match="2"):
                    parser.parse_args(words)
                message = f"{parser.prog}: error: every output must be a different file, and none of the inputs"
                assert message in capsys.readouterr().err, words
                n_pairs += 1
    assert n_pairs > 100


def test_every_option_that_takes_a_file_is_known_as_an_input_or_an_output():
    for parser in leaves(make_parser()):
        for action in parser._actions:
            is_file = re.search(r"FILE|FOLDER|COUNTS|MODEL|\.[a-z]{3}", str(action.metavar))
            known = action.dest in parser._inputs + parser._outputs
            assert known == (is_file is not None), (parser.prog, action.dest)


def test_files_that_a_command_reads_beside_the_counts_are_not_replaced(shop):
    assert shop("transform shop.npz shop -o W.csv")[0] == 0
    before = Path("W.csv").read_bytes()
    code, out, err = shop("recommend shop.npz shop --weights W.csv -o W.csv")
    assert (code, out) == (2, "")
    assert "none of the inputs, got W.csv and W.csv" in err
    assert Path("W.csv").read_bytes() == before


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_tables_have_the_separator_of_their_ending_and_are_read_back(shop, ending):
    assert shop(f"transform shop.npz shop -o W.{ending}")[0] == 0
    assert shop("transform shop.npz shop -o W.npy")[0] == 0
    with open(f"W.{ending}", newline="") as file:
        header, *rows = csv.reader(file, delimiter={"csv": ",", "tsv": "\t"}[ending])
    assert header == ["row", "0", "1"]
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], float), np.load("W.npy"))
    given = [shop(f"recommend shop.npz shop --weights W.{end}") for end in ("npy", ending)]
    assert given[0] == given[1]
    assert given[0][0] == 0
    assert shop(f"topics shop.npz -o topics.{ending}")[0] == 0
    assert Path(f"topics.{ending}").read_text().startswith({"csv": "component,", "tsv": "component\t"}[ending])
    assert "must be a .csv or .tsv file" in shop(f"topics shop.npz -o topics.{ending}.gz")[2]


def test_repeated_names_of_rows_are_matched_by_position_or_not_at_all(run):
    X = sparse.csr_array(sparse.load_npz("X.npz"))
    write_counts("rows", Dataset(X, np.array(["ada", "bob", "ada", *map(str, range(27))])))
    assert run("fit rows -k 2 -o model.npz -q --max-iter 5 --weights W.csv")[0] == 0
    W = read_matrix("W.csv", "--weights", read_counts("rows").row_names)
    assert W.shape == (30, 2)
    assert not np.array_equal(W[0], W[2])
    header, *lines = Path("W.csv").read_text().splitlines()
    Path("W.csv").write_text("\n".join([header, *lines[::-1]]))
    Path("groups.csv").write_text("".join(f"{line.split(',')[0]},a\n" for line in lines[::-1]))
    for option, line in {
        "--weights": "recommend model.npz rows --weights W.csv",
        "--row-exposure": "fit rows -k 2 -o other.npz --row-exposure groups.csv",
    }.items():
        code, _, err = run(line)
        assert code == 2
        assert f"error: argument {option}: rows can't be matched by name: in " in err
        assert "'ada' occurs more than once" in err


def test_names_end_at_line_ends_only(run):
    names = [f"name\x0b\x0c\x1c\x85\u2028{j}" for j in range(12)]
    Path("names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    assert run("convert X.npz -o named --column-names names.txt")[0] == 0
    assert len(read_counts("named").column_names) == 12
    assert json.loads(run("info X.npz --column-names names.txt --json")[1])["column_names"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("recommend shop.npz shop --weights short.npy --rows user39", "argument --weights: expected a matrix of shape"),
        ("plot selection k.json -o k.png", "k.json must be the output of `fastpmf select --json`"),
        ("fit shop -k 2 -o m.npz --model hpf --background 0", "argument --background: an option of --model poisson"),
        (
            "evaluate shop.npz test --train train --missing unobserved",
            "argument --missing: with --train, expected zero",
        ),
        (
            "select shop -k 2 --values log2 --holdout counts",
            "argument --values: log2 makes fractions, and thinning divides whole counts",
        ),
        ("split shop --train a --test b --values log2", "whole counts; --by entries moves whole entries"),
        ("fit shop -k 2 -o m.npz --validation 0.1 --values log2", "give --validation a file of held-out counts"),
        ("fit shop -k 2 -o m.npz --checkpoint-minutes 1", "argument --checkpoint-minutes: it needs --checkpoint"),
        ("fit shop -k 2 -o m.npz --model hpf --no-hierarchy --a-prime 1", "argument --a-prime: --no-hierarchy has no"),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(shop, line, message):
    np.save("short.npy", np.ones((3, 2)))
    scores = {"n_components": [1, 2], "log_likelihood": [-1.0, -2.0], "similarity": [1, 1], "seconds": [1.0, 2.0]}
    Path("k.json").write_text(json.dumps(scores))
    code, out, err = shop(line)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_columns_that_held_out_counts_lack_count_0(shop):
    test = read_counts("test")
    write_counts("part", Dataset(test.X[:, 3:], test.row_names, test.column_names[3:]))
    for line in (
        "evaluate train.npz part --train train -q",
        "plot calibration train.npz part --train train -o a.png -q",
        "plot component-gains train.npz part --train train -o a.png -q",
    ):
        code, _, err = shop(line)
        assert code == 0
        assert err == "fastpmf: part lacks 3 of the 15 fitted columns: treated as counts of 0\n"


def test_the_counts_of_train_have_a_format_of_their_own(shop):
    test = read_counts("test")
    lines = (
        f"{row},{column},{x},x\n"
        for row, counts in zip(test.row_names, test.X.toarray(), strict=True)
        for column, x in zip(test.column_names, counts, strict=True)
    )
    Path("test.txt").write_text("who,what,n,note\n" + "".join(lines))
    options = "--format csv --columns who,what,n"
    code, out, _ = shop(f"evaluate train.npz test.txt {options} --train train")
    assert code == 0
    assert out == shop("evaluate train.npz test --train train")[1]


def test_a_plan_of_one_count_has_a_size_in_a_terminal(run, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, _ = run("plan --shape 1 1 --nnz 1 -k 1")
    assert code == 0
    assert " KiB   fits\n" in out


def test_a_best_number_that_is_the_largest_is_said_in_a_pipe(shop):
    code, out, err = shop("select shop -k 1 --splits 2 -q")
    assert code == 0
    assert err == "fastpmf: the best number, 1, is the largest that was tried: larger ones may be better\n"
    assert "largest" not in out
    code, out, err = shop("select shop -k 1 --splits 2 -q --json")
    assert json.loads(out)["best_is_largest"] is True
    assert (code, err) == (0, "")
