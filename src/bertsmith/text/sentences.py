"""Documents to sentences, English and Korean.

The rules look at every sentence mark that is followed by white space (or, in Korean, sometimes by nothing) and
ask whether a new sentence can begin there. They know abbreviations, initials, decimals, quotations that go on
after the quote, and the endings of Korean sentences.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, Literal

from bertsmith.errors import InputError

Rule = Literal["rules", "line", "kiwi"]

# Sentence marks with the quotes and brackets that close behind them.
_MARK = re.compile(r"""([.!?…。！？]+)(["'”’»)\]』」》〉]*)(\s+|(?=[가-힣]))""")
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof rev hon st sr jr gen col maj capt lt sgt gov sen rep pres messrs mme mlle "
    "vs etc cf al eg ie viz approx ca no nos vol vols pp fig figs eq sec ch ed eds trans dept univ est "
    "inc ltd co corp bros ave blvd rd mt ft jan feb mar apr jun jul aug sep sept oct nov dec "
    "mon tue wed thu fri".split()
)
# Abbreviations after which a sentence may also end: only a lower-case word or a digit goes on.
_MAY_END = frozenset("etc al inc ltd co corp jr sr no ed est ave ch".split())
_KOREAN_END = re.compile(r"[다요죠까네음함됨임라자지군걸]$")
# What goes on after a quotation: 라고 말했다, 고 했다, 는 말.
_KOREAN_QUOTATIVE = re.compile(r"(이?라[고며는]|라는|고|며|면서|는|하고|란|이란|이라)(\s|$|[^가-힣])")
_LAST_WORD = re.compile(r"[^\s\"'“‘(\[]*$")
_INITIALS = re.compile(r"^(?:[A-Za-z]\.)*[A-Za-z]$")


def split_sentences(text: str, rule: Rule) -> list[str]:
    """Return the sentences of a document, stripped, none empty; a line end always ends a sentence.

    Args:
        text: lines or paragraphs separated by newlines.
        rule: "rules" (English and Korean), "line" (each line is a sentence) or "kiwi" (Korean, needs the
            extra ``ko``).

    Raises:
        InputError: kiwi is asked for and not installed.
    """
    lines = (line.strip() for line in text.split("\n"))
    if rule == "line":
        return [line for line in lines if line]
    if rule == "kiwi":
        return [s for line in lines if line for s in _kiwi_split(line)]
    return [s for line in lines if line for s in _split_line(line)]


def choose_rule(sample: Sequence[str]) -> Literal["rules", "line"]:
    """Return "line" if the documents of a sample already have about one sentence a line, else "rules"."""
    lines = [line for text in sample for line in text.split("\n") if line.strip()]
    if len(lines) < 2 * len(sample):
        return "rules"
    sentences = sum(len(_split_line(line.strip())) for line in lines)
    return "line" if sentences < 1.3 * len(lines) else "rules"


def _split_line(line: str) -> list[str]:
    sentences = []
    start = 0
    for match in _MARK.finditer(line):
        end = match.end(2)
        if match.end() < len(line) and _ends_here(
            line[start : match.start()], match, line[match.end() : match.end() + 24]
        ):
            sentences.append(line[start:end].strip())
            start = match.end()
    rest = line[start:].strip()
    if rest:
        sentences.append(rest)
    return [s for s in sentences if s]


def _ends_here(before: str, match: re.Match[str], after: str) -> bool:
    """Say whether a sentence ends at a mark, given the text of the sentence so far and what follows."""
    marks, closers, space = match.groups()
    first = after[:1]
    if not before:
        return False
    if first.islower() and first.isascii():
        return False
    korean_before = "가" <= before[-1] <= "힣"
    if not space:
        # No space: only a Korean sentence that is over and one that begins, not "1.5배" or a quotation.
        return not closers and korean_before and bool(_KOREAN_END.search(before)) and not _KOREAN_QUOTATIVE.match(after)
    if closers and _KOREAN_QUOTATIVE.match(after):
        return False
    if "!" in marks or "?" in marks or "。" in marks or "！" in marks or "？" in marks:
        return True
    if len(marks) > 1 or marks == "…":
        # An ellipsis is a pause more often than an end, unless a Korean ending or a capital letter tells.
        return bool(_KOREAN_END.search(before)) if korean_before else not "가" <= first <= "힣"
    if korean_before:
        return True
    word = _LAST_WORD.search(before)
    last = word[0] if word else ""
    if _INITIALS.match(last):
        # "J. Smith", "U.S. Army" go on; "in the U.S. The" is lost to that, which is the lesser harm.
        return False
    key = last.lower().replace(".", "")
    if key in _ABBREVIATIONS:
        return key in _MAY_END and not first.isdigit()
    # "3. Korea" at the start of a line is a numbered item.
    return not (before.strip().isdigit() and len(before.strip()) <= 3)


def _kiwi_split(line: str) -> list[str]:
    return [s.text.strip() for s in _kiwi().split_into_sents(line) if s.text.strip()]


@functools.cache
def _kiwi() -> Any:
    try:
        from kiwipiepy import Kiwi
    except ImportError:
        raise InputError("sentences: kiwi is not installed; pip install 'bertsmith[ko]', or use rules") from None
    # One thread: several would be started in each worker process.
    return Kiwi(num_workers=1)
