"""English prose that every installation carries: Python's help topics and the docstrings of installed packages.

Sources are parsed, never imported: nothing of what is read is run.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import importlib.util
import io
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bertsmith import files
from bertsmith.console import Log
from bertsmith.text.sentences import split_sentences

PACKAGES = ("torch", "sympy", "networkx", "numpy", "scipy", "sklearn", "matplotlib", "pyarrow", "pydantic", "rich")
"""Packages that Bertsmith depends on, directly or through torch and scikit-learn, and that explain themselves."""

STANDARD_LIBRARY = "stdlib"
LABELS = ("matplotlib", "networkx", "scipy", "sklearn", STANDARD_LIBRARY, "sympy", "torch")
_PACKAGE_CHARACTERS = 900_000
_DEV_SHARE = 0.2
_TRAIN_ROWS, _DEV_ROWS = 500, 120

_SECTIONS = re.compile(
    r"^\s*(Args?|Arguments|Parameters|Returns?|Raises|Yields?|Attributes|Examples?|Notes?|References|See Also|Usage|"
    r"Warns|Warnings|Other Parameters|Methods|Inputs?|Outputs?|Shape|Keyword [Aa]rg\w*)\s*(:|:?\n\s*[-=~]{3,})",
    re.MULTILINE,
)
_ROLE = re.compile(r":[\w:+-]+:`~?\.?([^`<]+?)(?:\s*<[^`]*>)?`")
_QUOTED = re.compile(r"``([^`]+)``|`([^`]+)`_?_?|(?<!\w)\*{1,2}([^*\s][^*\n]*)\*{1,2}(?!\w)")
_NOT_PROSE = re.compile(r">>>|https?:|\|{1,2}|[-=~^+*]{3,}|^\s*\.\. |\\[a-z]+\b|[{}<>\[\]=]|__|::$|@\w", re.MULTILINE)
_NAMES = re.compile(
    r"\b(py)?(torch|sympy|networkx|nx|numpy|scipy|sklearn|scikit|matplotlib|mpl|pyplot|python|cpython|pyarrow|pydantic)\w*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ProseDocument:
    """The prose of one module or help topic.

    Attributes:
        package: whose it is.
        name: its path inside the package, or its topic.
        paragraphs: in the order of the source.
    """

    package: str
    name: str
    paragraphs: tuple[str, ...]

    @property
    def is_dev(self) -> bool:
        """Whether it is kept out of the corpus, for pairs and rows that the model has not seen."""
        digest = hashlib.blake2b(f"{self.package}/{self.name}".encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") < _DEV_SHARE * 2**32


@dataclass(frozen=True)
class QuickstartCorpus:
    """What was found.

    Attributes:
        texts: the folder with one txt file a package, to pre-train on.
        train: labelled sentences from the same documents: which package are they from?
        dev: labelled sentences from documents that are not in ``texts``.
        documents: number of documents in ``texts``.
        characters: their size.
        pairs: (A, B, whether B follows A) from documents that are not in ``texts``.
    """

    texts: Path
    train: Path
    dev: Path
    documents: int
    characters: int
    pairs: tuple[tuple[str, str, bool], ...]


def build_corpus(directory: Path, log: Log) -> QuickstartCorpus:
    """Collect the prose of this installation and write it as a corpus and as labelled rows."""
    documents = list(collect_documents())
    seen = [d for d in documents if not d.is_dev]
    unseen = [d for d in documents if d.is_dev]
    texts = directory / "texts"
    for package in sorted({d.package for d in seen}):
        blocks = ["\n".join(d.paragraphs) for d in seen if d.package == package]
        files.write_text(texts / f"{package}.txt", "\n\n".join(blocks) + "\n")
    used: set[str] = set()
    _write_rows(directory / "train.csv", seen, _TRAIN_ROWS, used)
    _write_rows(directory / "dev.csv", unseen, _DEV_ROWS, used)
    characters = sum(len(p) for d in seen for p in d.paragraphs)
    if characters < 1_000_000:
        log.warn(f"only {characters:,} characters of prose on this machine: expect less of the model")
    return QuickstartCorpus(
        texts, directory / "train.csv", directory / "dev.csv", len(seen), characters, _pairs(unseen)
    )


def collect_documents() -> Iterator[ProseDocument]:
    """Yield the prose of this installation, each paragraph once, in an order that depends on the sources alone."""
    seen: set[str] = set()
    for package, root in _roots():
        size = 0
        for path in _sources(root, package):
            paragraphs = tuple(p for p in _module_prose(path) if not (p in seen or seen.add(p)))  # type: ignore[func-returns-value]
            if sum(p.count(". ") + 1 for p in paragraphs) >= 4:
                yield ProseDocument(package, path.relative_to(root).as_posix(), paragraphs)
                size += sum(len(p) for p in paragraphs)
            if size > _PACKAGE_CHARACTERS:
                break


def prose(docstring: str) -> list[str]:
    """Return the paragraphs of a docstring that are English prose: no code, tables, parameter lists or markup."""
    text = re.sub(r"\r\n?", "\n", docstring).expandtabs()
    section = _SECTIONS.search(text)
    if section:
        text = text[: section.start()]
    return [p for block in re.split(r"\n\s*\n", text) if (p := _paragraph(block))]


def _paragraph(block: str) -> str | None:
    text = _ROLE.sub(lambda m: m[1].rsplit(".", 1)[-1], block)
    text = _QUOTED.sub(lambda m: m[1] or m[2] or m[3], text)
    if _NOT_PROSE.search(text) or re.match(r"\s*([-*•:]|\d+\.|\w+\s*:\s)", text):
        return None
    text = " ".join(text.split())
    words = text.split()
    letters = sum(c.isalpha() or c == " " for c in text)
    ordinary = sum(bool(re.fullmatch(r"[A-Za-z][a-z]*[.,;:!?)]*|\([a-z]+", w)) for w in words)
    if len(words) < 5 or not text[0].isupper() or text[-1] not in ".?!" or "_" in text:
        return None
    return text if letters >= 0.9 * len(text) and ordinary >= 0.8 * len(words) and text.isascii() else None


def _roots() -> Iterator[tuple[str, Path]]:
    yield STANDARD_LIBRARY, Path(sysconfig.get_path("stdlib"))
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            yield name, Path(next(iter(spec.submodule_search_locations)))


def _sources(root: Path, package: str) -> list[Path]:
    skipped = {
        "site-packages",
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "ensurepip",
        "__pycache__",
        "testing",
        "conformance",
    }
    paths = [p for p in root.rglob("*.py") if not skipped & set(p.relative_to(root).parts)]

    def key(path: Path) -> bytes:
        return hashlib.blake2b(f"{package}/{path.relative_to(root).as_posix()}".encode(), digest_size=8).digest()

    # Hash order: when a package has more than is taken, all its parts are in the sample.
    return sorted(paths, key=key)


def _module_prose(path: Path) -> list[str]:
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    if path.parent.name == "pydoc_data":
        return [p for text in _strings(source) for p in _topic_prose(text)]
    if '"""' not in source and "'''" not in source:
        return []
    return [p for text in _docstrings(source) for p in prose(text)]


def _topic_prose(text: str) -> list[str]:
    # Help topics are indented prose without docstring sections.
    return [p for block in re.split(r"\n\s*\n", text) if (p := _paragraph(re.sub(r'"([^"\n]+)"', r"\1", block)))]


def _parse(source: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError):
            return None


def _strings(source: str) -> Iterator[str]:
    tree = _parse(source)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 200:
            yield node.value


def _docstrings(source: str) -> Iterator[str]:
    def visit(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
        text = ast.get_docstring(node)
        if text:
            yield text
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from visit(child)

    tree = _parse(source)
    if tree:
        yield from visit(tree)


def _write_rows(path: Path, documents: list[ProseDocument], rows: int, used: set[str]) -> None:
    """Write up to ``rows`` sentences a label, spread over its documents, none twice and none that names a package."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["text", "label"])
    for label in LABELS:
        sentences = []
        for document in documents:
            if document.package != label:
                continue
            found = [s for p in document.paragraphs for s in split_sentences(p, "rules")]
            good = [s for s in found if 8 <= len(s.split()) <= 40 and not _NAMES.search(s) and s not in used]
            used.update(good[:6])
            sentences += good[:6]
        writer.writerows([sentence, label] for sentence in sentences[:rows])
    files.write_text(path, out.getvalue())


def _pairs(documents: list[ProseDocument]) -> tuple[tuple[str, str, bool], ...]:
    """Return three pairs of neighbouring sentences, the second with its B exchanged for the third's."""
    found = []
    for document in documents:
        for paragraph in document.paragraphs:
            sentences = split_sentences(paragraph, "rules")
            if len(sentences) >= 2 and all(8 <= len(s.split()) <= 25 for s in sentences[:2]):
                found.append((sentences[0], sentences[1]))
                break
    if len(found) < 4:
        return ()
    step = len(found) // 4
    first, second, third, other = (found[i * step] for i in range(4))
    return ((*first, True), (second[0], other[1], False), (*third, True))
