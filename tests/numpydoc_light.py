"""Just enough numpydoc to compare a docstring with a signature."""

import re


def parameters(doc: str) -> list[str] | None:
    """Names under "Parameters", or None where there is no such section."""
    found = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", doc, re.S | re.M)
    if found is None:
        return None
    heads = re.findall(r"^(?! )([\w, ]+?)(?: : .*)?$", found[1], re.M)
    return [name.strip() for head in heads for name in head.split(",") if name.strip()]
