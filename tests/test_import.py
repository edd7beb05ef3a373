"""Modules of fastpmf are attributes of the package, imported when they are first used."""

import subprocess
import sys

import pytest

import fastpmf

MODULES = ["anndata", "cnmf", "dask", "io", "plot"]


def test_modules_are_attributes_and_are_not_imported_with_the_package():
    code = f"""
import sys, fastpmf
modules = {MODULES}
assert not [name for name in modules if f"fastpmf.{{name}}" in sys.modules]
assert set(modules) <= set(dir(fastpmf))
assert not [name for name in modules if f"fastpmf.{{name}}" in sys.modules]
for name in modules:
    assert getattr(fastpmf, name) is sys.modules[f"fastpmf.{{name}}"]
fastpmf.io.read_counts, fastpmf.plot.structure, fastpmf.anndata.hpf, fastpmf.dask.HPF
"""
    subprocess.run([sys.executable, "-W", "error::UserWarning:fastpmf", "-c", code], check=True)


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fastpmf' has no attribute 'oi'"):
        fastpmf.oi  # noqa: B018
