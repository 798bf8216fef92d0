"""What counts as prose, that nothing read is run, and that what is scored on was not read before."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from bertsmith.console import Log
from bertsmith.quickstart import corpus
from bertsmith.quickstart.corpus import LABELS, build_corpus, collect_documents, prose

QUIET = Log(quiet=True)

DOCSTRING = """Return the shortest path between two nodes of a graph.

    The graph may hold several paths. Of two equally long ones the first is
    taken, and ``None`` stands for no path at all; see :func:`~graphs.distance`.

    >>> shortest(graph, 1, 2)
    [1, 2]

    .. note:: a directive
    ===== =====
    a     b
    ===== =====

    * The first item of a list is not a sentence of prose.

    Short one.

    Parameters
    ----------
    graph : Graph
        This sentence describes a parameter and is left out.
"""


def test_prose_is_paragraphs_without_code_tables_lists_and_parameters() -> None:
    assert prose(DOCSTRING) == [
        "Return the shortest path between two nodes of a graph.",
        "The graph may hold several paths. Of two equally long ones the first is taken, and None stands for no path "
        "at all; see distance.",
    ]


@pytest.mark.parametrize(
    "block",
    [
        "See https://example.org for all that there is to know.",
        "Set x = 3 and then call the function with it.",
        "the first letter is a small one here, so it is a fragment.",
        "A heading that ends without a mark of its own",
        "Values of snake_case names are not what prose is made of.",
        "Größe und Länge der Wörter sind hier nicht gefragt.",
        "12, 13, 14, 15, 16, 17 and 18, 19, 20, 21 are Numbers.",
        "Args:\n    everything: that stands behind it.",
    ],
)
def test_not_prose(block: str) -> None:
    assert prose(block) == []


SUBJECTS = ("The graph", "A matrix", "This method", "The caller", "Every node", "The second value")
VERBS = ("keeps", "returns", "forgets", "computes", "compares", "replaces")
OBJECTS = ("the smallest of all given numbers", "a copy of the input without its last row", "what was there before it")


def module(seed: int) -> str:
    """Source whose docstrings are four made-up sentences each, and that would leave a trace if it were run."""
    sentences = [
        f"{SUBJECTS[(seed + i) % 6]} {VERBS[(seed // 6 + i) % 6]} {OBJECTS[(seed // 36 + i) % 3]} in case {word}."
        for i, word in enumerate(("one", "two", "three", "four"), start=seed % 7)
    ]
    text = " ".join(s.replace("case", f"case {'abcdefghijklmnopqrstuvwxyz'[seed % 26]} of part") for s in sentences)
    return f'"""{text}"""\nopen({str(TRACE)!r}, "w")\n'


TRACE = Path("ran.txt")


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seven made-up packages of 40 modules in place of those of this machine."""
    roots = []
    for number, label in enumerate(LABELS):
        root = tmp_path / "packages" / label
        (root / "tests").mkdir(parents=True)
        for n in range(40):
            (root / f"m{n}.py").write_text(module(number * 40 + n))
        (root / "tests" / "test_m.py").write_text(module(999))
        (root / "broken.py").write_text('"""A sentence that stands in a file with a syntax error."""\ndef (')
        (root / "latin.py").write_bytes('"""Ein Satz über etwas."""'.encode("latin-1"))
        roots.append((label, root))
    monkeypatch.setattr(corpus, "_roots", lambda: iter(roots))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("installation")
def test_nothing_that_is_read_is_run() -> None:
    documents = list(collect_documents())
    assert documents
    assert not TRACE.exists()
    assert not any("test" in d.name or d.name in ("broken.py", "latin.py") for d in documents)


def test_the_same_every_time(installation: Path) -> None:
    first, second = (build_corpus(installation / name, QUIET) for name in ("one", "two"))
    assert first.pairs == second.pairs
    for name in ("train.csv", "dev.csv", *(f"texts/{label}.txt" for label in LABELS)):
        assert (installation / "one" / name).read_bytes() == (installation / "two" / name).read_bytes()


def test_what_is_scored_on_was_not_read(installation: Path) -> None:
    built = build_corpus(installation / "corpus", QUIET)
    read = "\n".join(path.read_text() for path in built.texts.glob("*.txt"))
    rows = {}
    for name, path in (("train", built.train), ("dev", built.dev)):
        with path.open(newline="") as file:
            rows[name] = list(csv.DictReader(file))
    assert {row["label"] for row in rows["train"]} == {row["label"] for row in rows["dev"]} == set(LABELS)
    train, dev = ([row["text"] for row in rows[name]] for name in ("train", "dev"))
    assert len({*train, *dev}) == len(train) + len(dev)
    assert all(text in read for text in train)
    # A dev document is not in the corpus; a sentence of it can be only if another document says the same.
    dev_documents = [d for d in collect_documents() if d.is_dev]
    assert dev_documents
    assert not any("\n".join(d.paragraphs) in read for d in dev_documents)
    assert [truth for _, _, truth in built.pairs] == [True, False, True]
    assert all(a not in read for a, _, _ in built.pairs)


def test_names_of_packages_do_not_give_the_label_away(installation: Path) -> None:
    (installation / "packages" / "scipy" / "m1.py").write_text(
        '"""This sentence says that SciPy computes it for every one of its callers. '
        + "It was here before the others came and it is long enough for a row. " * 4
        + '"""\n'
    )
    build_corpus(installation / "corpus", QUIET)
    rows = (installation / "corpus" / "train.csv").read_text() + (installation / "corpus" / "dev.csv").read_text()
    assert "SciPy" not in rows
    assert "It was here before the others came" in rows
