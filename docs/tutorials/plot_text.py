"""
Topics of documents
===================

This tutorial goes from texts to topics: count words, choose the number of topics, read and check them, and find the
topics of new texts.
A topic is a distribution over words, and a document is a mixture of topics.

The documents are the docstrings of Python's standard library, one document for each module.
They are on every machine, and most readers can judge the topics.
The output depends on the version of Python.

It needs ``pip install fastpmf pandas matplotlib``.
"""

# %%
# Read the texts
# --------------
#
# ``texts`` maps the name of a module to its docstrings.
# Modules with less than 1,000 characters of them are left out.
# For texts of your own, in a folder of ``.txt`` files, this line replaces the loop::
#
#     texts = {path.stem: path.read_text("utf-8") for path in sorted(Path("folder").glob("*.txt"))}

import re
import sysconfig
from pathlib import Path

root = Path(sysconfig.get_path("stdlib"))
others = {"test", "tests", "idlelib", "lib2to3", "pydoc_data"}
others |= {"site-packages", "dist-packages"}

texts = {}
for path in sorted(root.rglob("*.py")):
    parts = path.relative_to(root).with_suffix("").parts
    if not others.isdisjoint(parts):
        continue
    source = path.read_text(encoding="utf-8", errors="ignore")
    docstrings = re.findall(r'"""(.*?)"""', source, re.DOTALL)
    if sum(map(len, docstrings)) >= 1000:
        texts[".".join(part for part in parts if part != "__init__")] = "\n".join(docstrings)

print(len(texts), "documents")
print(texts["json"][:250])

# %%
# Count words
# -----------
#
# ``CountVectorizer`` of scikit-learn splits texts into words and counts them.
# Three of its options matter here:
#
# - ``stop_words`` leaves out "the", "of" and so on.
#   Add words that mean nothing in your collection, here words of Python code.
# - ``min_df=4`` leaves out words of fewer than four documents.
#   They cannot connect documents, and most words of a collection are that rare.
# - ``max_df=0.3`` leaves out words of more than 30 % of the documents.
#   They would be among the first words of every topic.
#
# Do not use ``TfidfVectorizer``.
# The model expects counts: long documents and frequent words are part of it.

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer

from fastpmf.io import Dataset

stop_words = [*ENGLISH_STOP_WORDS, "arg", "args", "def", "int", "key", "rfc", "self", "str"]
pattern = r"\b[a-z]{3,}\b"  # at least three letters
vectorizer = CountVectorizer(
    stop_words=stop_words,
    min_df=4,
    max_df=0.3,
    token_pattern=pattern,
)
counts = vectorizer.fit_transform(texts.values())
X = Dataset(counts, list(texts), vectorizer.get_feature_names_out())
n, p = counts.shape
print(f"{n} documents, {p:,} words, {counts.sum():,} counts, {counts.nnz:,} nonzeros")

# %%
# A :class:`~fastpmf.io.Dataset` is the matrix with the names of its rows and columns.
# The model remembers the words, so results have words instead of numbers.
#
# How many topics?
# ----------------
#
# :func:`fastpmf.select_n_components` holds out 10 % of the documents at random, and measures how well each number of
# topics predicts a part of their words from the others.

from fastpmf import PoissonNMF, plot, select_n_components

selection = select_n_components(X, [2, 4, 8, 12, 16, 24], n_splits=2, random_state=0)
print("recommended:", selection.recommended)
print(selection.to_frame().drop(columns="seconds").round(4))
axes = plot.selection(selection)

# %%
# The score still rises at 24, as it often does with texts: even a few similar documents have words of their own.
# Each further topic gains less, though.
# If people will read the topics, take as many as they will read, and check them as below; we take 12.
# If the topics are the input of a classifier, let its validation score decide.

model = PoissonNMF(12, prior_W="auto", prior_H="auto", random_state=0)
W = model.fit_transform(X)
print(model.status_)

# %%
# ``"auto"`` is a weak prior, which keeps rare words from having a probability of 0.
# ``select_n_components`` used the same.
#
# Read the topics
# ---------------
#
# Each row of ``model.components_`` is a topic.
# :meth:`~fastpmf.PoissonNMF.top_features` gives its words.
# By weight they are the most probable ones; ``by="lift"`` prefers words that are more frequent in this topic than in
# all documents.

for z, words in enumerate(model.top_features(8).names):
    print(f"{z:2}", *words)

# %%
# The documents of a topic say as much as its words.
# :meth:`~fastpmf.PoissonNMF.to_topics` turns W and H into probabilities: ``mixtures`` has the shares of the topics in
# each document, which sum to 1.

import pandas as pd

titles = model.top_features(2).titles()
shares = pd.DataFrame(model.to_topics(W).mixtures, index=list(texts), columns=titles)
for title in titles:
    print(f"{title:20}", *shares[title].nlargest(3).index)

# %%
# In a structure plot each document is a bar, divided by its shares.
# Here are the documents of the eight largest packages:

package = shares.index.str.split(".").str[0]
largest = package.value_counts().index[:8]
# sphinx_gallery_thumbnail_number = 2
ax = plot.structure(W, model, groupby=package, groups=largest, labels=titles)

# %%
# Which topics are good?
# ----------------------
#
# :meth:`~fastpmf.PoissonNMF.quality` measures whether the first words of a topic occur in the same documents.
# ``npmi`` is 1 if they always do, 0 if they are independent, and negative if they avoid each other.
# ``exclusivity`` is low if the words are frequent in other topics too.
# ``effective_rows`` is roughly the number of documents that make up the topic.

quality = model.quality(X, W=W).to_frame()
quality.insert(0, "topic", titles)
quality.sort_values("npmi").round(2)

# %%
# Look first at the topics with the lowest ``npmi``.
# A topic of a few documents repeats their vocabulary: a single long document can have a topic to itself.
# Leave such a document out, or split long documents into chapters.
# A topic of unrelated words may be a mixture of two subjects, which more topics separate.
#
# :func:`fastpmf.plot.similarity_heatmap` compares topics by the probabilities of all words.
# If two are nearly the same, use fewer topics.

ax = plot.similarity_heatmap(model, labels=titles)

# %%
# New texts
# ---------
#
# Count the words of new texts with the same vectorizer, so that columns are the same words.
# :meth:`~fastpmf.PoissonNMF.transform` then finds their topics.
# Words outside the vocabulary are ignored.

new_texts = [
    "Open the file and read the bytes of the buffered stream until the end of the input.",
    "The client sends a request to the server and waits for a response with a status.",
    "Zebras graze.",
]
new_X = Dataset(vectorizer.transform(new_texts), column_names=X.column_names)
new_W = model.transform(new_X)
new_shares = pd.DataFrame(model.to_topics(new_W).mixtures, columns=titles)
new_shares.T.round(2)

# %%
# The last text has no known word.
# Its shares are nearly equal: they are those of the prior and say nothing about the text.
# (Without a prior they are 0.)
# To find such texts, count the known words of each:

import numpy as np

print("known words:", np.ravel(new_X.X.sum(axis=1)))

# %%
# A pipeline holds both steps in one object, which takes texts.
# Here it is fitted to all documents but the last ten:

from sklearn.pipeline import make_pipeline

new_model = PoissonNMF(12, prior_W="auto", prior_H="auto", random_state=0)
pipeline = make_pipeline(vectorizer, new_model)
pipeline.fit(list(texts.values())[:-10])
pipeline.transform(list(texts.values())[-10:]).shape

# %%
# Many texts
# ----------
#
# If texts do not fit in memory, or keep arriving, :meth:`~fastpmf.PoissonNMF.partial_fit` learns from one batch at a
# time and forgets it.
# The vocabulary must be fixed before, for example by a vectorizer that was fitted to a random sample.
# Here each paragraph is a document, and the paragraphs come in random order:

paragraphs = np.random.default_rng(0).permutation("\n\n".join(texts.values()).split("\n\n"))
online = PoissonNMF(12, prior_W=(1.1, 1.0), prior_H=(1.1, 1.0), random_state=0)
for batch in np.array_split(paragraphs, 20):
    online.partial_fit(vectorizer.transform(batch))
print(len(paragraphs), "paragraphs")
for words in online.top_features(5, names=vectorizer.get_feature_names_out()).names:
    print(*words)

# %%
# If the counts fit on a disk, :func:`fastpmf.io.stream_counts` fits all of them without loading them, which is more
# exact; see :ref:`sphx_glr__generated_tutorials_plot_large.py`.
#
# Report and save
# ---------------
#
# :meth:`~fastpmf.PoissonNMF.report` writes an HTML file with the topics, their quality and plots, to open in a browser
# or to send to others.
# :meth:`~fastpmf.PoissonNMF.save` writes the model, and :meth:`~fastpmf.PoissonNMF.load` reads it.

import tempfile

folder = Path(tempfile.mkdtemp())
model.report(folder / "report.html", X, W, title="Topics of Python's standard library")
model.save(folder / "model.npz")
loaded = PoissonNMF.load(folder / "model.npz")
print((loaded.components_ == model.components_).all())

# %%
# Save the vectorizer too, with ``joblib.dump``: the columns of the model are its words.
#
# What next
# ---------
#
# - Try other starts: ``n_init=10`` fits from ten and keeps the best.
#   :doc:`/guide/stability` shows which topics come back.
# - :doc:`/guide/choosing_k` has more on the number of topics, and finds topics that predict nothing.
# - :doc:`/guide/reading` has more on weights, lift and quality.
# - To search for similar documents, or to classify them, use the rows of ``mixtures`` as features in scikit-learn.
# - :doc:`/coming_from/gensim` compares the names of parameters, and what LDA does differently.
