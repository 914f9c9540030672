"""The guide in `docs/`: its Python runs, each page from top to bottom, and what it names is there."""

import pathlib
import re

import pytest

import keras_multiweight as kmw
from keras_multiweight import bagging, callbacks, layers, merging, surrogate

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def code_of(page):
    """The Python of a page as one program, each line at its number in the page."""
    text = page.read_text()
    inside = set()
    for block in BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1))
        inside |= set(range(first, first + block.group(1).count("\n")))
    return "\n".join(line if number in inside else "" for number, line in enumerate(text.splitlines()))


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code_of(page), str(page), "exec"), {"__name__": "__docs__"})


def test_every_page_is_in_the_contents():
    contents = (DOCS.parent / "mkdocs.yml").read_text()
    assert not [page for page in PAGES if f": {page.relative_to(DOCS).as_posix()}\n" not in contents]


@pytest.mark.parametrize("module", [kmw, bagging, callbacks, layers, merging, kmw.plots, kmw.sklearn, surrogate])
def test_every_public_function_and_class_is_in_the_reference(module):
    reference = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    names = getattr(module, "__all__", vars(module))
    ours = [name for name in names if getattr(getattr(module, name), "__module__", "").startswith(kmw.__name__)]
    assert ours and not [n for n in ours if not re.search(rf"^::: .*\b{n}$", reference, flags=re.MULTILINE)]
