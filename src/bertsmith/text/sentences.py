"""Documents to sentences, English and Korean.

The rules look at every sentence mark that white space follows (in Korean, after a sentence's ending, also at
one that nothing follows) and ask whether the sentence can end there. They know abbreviations, initials,
decimals and dates, list numbers, ellipses, brackets, quotations that the sentence goes on after, and the
Korean endings that stand without a mark before laughter or a tilde. In doubt a sentence goes on: for
next-sentence prediction a sentence too long does less harm than one torn in two.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, Literal

from bertsmith.errors import InputError

Rule = Literal["rules", "line", "kiwi"]

_WINDOW = 300
"""Characters that are looked back or ahead for a bracket: keeps the work linear in the text."""

# Sentence marks, the quotes and brackets that close behind them, Korean laughter and tears that belong to them.
_MARKED = r"""([.!?…。！？]+)(["'”’»)\]』」》〉]*)(?:\s*(?:[ㅋㅎㅠㅜ]{2,}[~!?.^;]*))?(?:\s+|(?=[가-힣]))"""
# In chat and reviews laughter, tears, tildes and hearts take the full stop's place.
_UNMARKED = r"(?<=[다요죠네까])\s?(?:[ㅋㅎㅠㅜ]{2,}[~^;]*|~+|\^\^|[♡♥]+)\s+"
_CANDIDATE = re.compile(f"{_MARKED}|{_UNMARKED}")
# A line without any of these has marked candidates only, and a pattern that begins with a set is searched faster.
_UNMARKED_SIGN = re.compile("[ㅋㅎㅠㅜ~^♡♥]")
_MARKED_CANDIDATE = re.compile(_MARKED)

_TITLES = frozenset(
    "Mr Mrs Ms Messrs Mme Mlle Dr Prof Rev Hon St Ste Gen Col Maj Capt Lt Sgt Cpl Adm Gov Sen Rep Pres Supt Insp "
    "Mt Ft Fr Sr Sra Dept Univ".split()
)
_ABBREVIATIONS = frozenset("vs viz cf e.g i.e eg ie ca approx fl lit trans resp incl".split())
# After these a sentence may end: it does if the next word is one that sentences begin with.
_MAY_END = frozenset("inc ltd co corp bros jr sr esq ave blvd rd al ed eds est a.m p.m ph.d m.d b.a m.a d.c".split())
# These are abbreviations before a number only; elsewhere they are words, or end a sentence.
_BEFORE_NUMBERS = frozenset(
    "no nos vol vols p pp fig figs ch chap sec sect eq art op ver "
    "jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
_STARTER = re.compile(
    r"(?:The|An?|He|She|It|They|We|I|You|This|That|These|Those|There|Its|His|Her|Their|Our|My|Your|In|On|At|By|To|"
    r"For|From|With|Of|As|After|Before|During|Since|While|When|Where|Who|What|Why|How|Which|If|But|And|Or|So|Yet|Then|"
    r"Although|Though|However|Because|Some|Many|Most|All|Another|Other|One|Two|Both|Each|Not|No|Now|Today)\b(?![.'’-])"
)
_ATTRIBUTION = re.compile(
    r"(?:I|He|She|They|[A-Z][a-z]+\.?(?: [A-Z][a-z]+){0,2}) (?:said|asked|cried|replied|answered|exclaimed|returned|"
    r"added|muttered|murmured|whispered|shouted|screamed|continued|repeated|remarked|inquired|enquired|observed|"
    r"ejaculated|rejoined|interrupted|called|demanded|began|thought|laughed|sighed|persisted)\b"
)
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]$")
_LAST_WORD = re.compile(r"[^\s\"'“‘(\[—–]*$")
_OPENERS = re.compile(r"[\"'“‘«(\[『「《〈<*•·※\-–—]*\s*")

# 니까 alone says "because": only 습니까 and its like ask.
_KOREAN_END = re.compile(r"(?:[다요죠네음함됨임군]|[^니]까|[습입합됩십]니까)$")
# A quotation's end that the sentence goes on after: "..." 라고 말했다; "..." 는 말.
_QUOTATIVE = re.compile(
    r"(?:이?라고|이?라며|이?라는|이?라면서|이?란|하고|하며|하면서|하는|고|며|면서|는)(?:도|만|까지)?(?![가-힣])"
)
_PARTICLE = re.compile(r"(?:[을를은의에]|으?로|이?었[가-힣]+|입니다|이다)(?![가-힣])")
_QUOTATIVE_ATTACHED = re.compile(r"이?라[고며는]|이?란 |[고며는]\s|면서\s|하고\s")
_TITLE_BRACKETS = (("『", "』"), ("「", "」"), ("《", "》"), ("〈", "〉"))


def split_sentences(text: str, rule: Rule) -> list[str]:
    """Return the sentences of a document, stripped, none empty; a line end always ends a sentence.

    Args:
        text: lines or paragraphs separated by newlines.
        rule: "rules" (English and Korean), "line" (each line is a sentence) or "kiwi" (Korean, by the package
            kiwipiepy of the extra ``ko``).

    Raises:
        InputError: kiwi is asked for and not installed.
    """
    lines = (line.strip() for line in text.split("\n"))
    if rule == "line":
        return [line for line in lines if line]
    if rule == "kiwi":
        split = _kiwi().split_into_sents
        return [found for line in lines if line for s in split(line) if (found := s.text.strip())]
    return [sentence for line in lines if line for sentence in _split_line(line)]


def choose_rule(sample: Sequence[str]) -> Literal["rules", "line"]:
    """Choose a rule for the documents of which ``sample`` is a part.

    "line" if 90 % of the lines already are one sentence to the rules (so that the lines say more than the
    rules could) and documents have two lines or more on average; else "rules".
    """
    lines = [stripped for text in sample for line in text.split("\n") if (stripped := line.strip())]
    if len(lines) < 2 * len(sample) or not lines:
        return "rules"
    single = sum(len(_split_line(line)) == 1 for line in lines)
    return "line" if single >= 0.9 * len(lines) else "rules"


def _split_line(line: str) -> list[str]:
    sentences = []
    start = 0
    candidates = _CANDIDATE if _UNMARKED_SIGN.search(line) else _MARKED_CANDIDATE
    for match in candidates.finditer(line):
        if match.end() < len(line) and _ends(line, start, match):
            sentences.append(line[start : match.end()].rstrip())
            start = match.end()
    if start < len(line):
        sentences.append(line[start:])
    return sentences


def _ends(line: str, start: int, match: re.Match[str]) -> bool:
    """Say whether the sentence from ``start`` ends at a candidate."""
    marks, closers = match[1], match[2]
    if marks is None:
        return not _is_enclosed(line, start, match.start())
    at, after = match.start(), match.end()
    if at == start:
        return False
    before = line[at - 1]
    spaced = before.isspace()
    if spaced:
        before = line[max(start, at - _WINDOW) : at].rstrip()[-1:] or " "
    first = line[after]
    if not first.isalnum():
        following = _OPENERS.match(line, after)
        at_word = following.end() if following else after
        first = line[at_word : at_word + 1]
    korean = "가" <= before <= "힣"
    if first in ",;:)]" or before in "([":
        return False
    if korean:
        ends = _ends_korean(line, start, match)
    elif "가" <= first <= "힣" and marks != ".":
        # A pause after Latin letters or digits in Korean text, unless it is a question or a call.
        ends = marks.strip(".…") != ""
    elif not line[after - 1].isspace():
        # Without white space only a Korean ending tells.
        ends = False
    elif first.islower():
        # Only in text that was cut into tokens does a lower-case word begin a sentence: "bad movie . it is".
        ends = spaced and len(marks) == 1 and before not in ".!?…"
    elif marks == ".":
        ends = _ends_at_full_stop(line, start, at, after, before, first)
    else:
        ends = not (closers and marks[-1] in "!?" and _ATTRIBUTION.match(line, after))
    return ends and not _is_enclosed(line, start, at)


def _ends_korean(line: str, start: int, match: re.Match[str]) -> bool:
    marks, closers = match[1], match[2]
    before, after = line[max(start, match.start() - _WINDOW) : match.start()], match.end()
    if not line[after - 1].isspace():
        # No space at all: "좋았다.정말", but not "가.나" or a quotation's "갔다.라고".
        return not closers and bool(_KOREAN_END.search(before)) and not _QUOTATIVE_ATTACHED.match(line, after)
    if _QUOTATIVE.match(line, after) or (closers and _PARTICLE.match(line, after)):
        return False
    if marks != "." and not marks.strip(".…"):
        # An ellipsis is a pause more often than an end, unless the ending tells.
        return bool(_KOREAN_END.search(before.rstrip()))
    # "가. 나. 다." count a list.
    return marks != "." or len(before.strip()) > 1 or match.start() - start > 2


def _ends_at_full_stop(line: str, start: int, at: int, after: int, before: str, first: str) -> bool:
    if before.isdigit():
        # "2008. 11. 4. 발표", and "3. Korea" as the number of an item.
        number = line[start:at] if at - start <= 4 else ""
        return not (first.isdigit() or "가" <= first <= "힣" or number.strip("(").isdigit())
    found = _LAST_WORD.search(line, max(start, at - 40), at)
    word = found[0] if found else ""
    lower = word.lower()
    if lower in _BEFORE_NUMBERS:
        return not first.isdigit()
    if lower in _ABBREVIATIONS or word in _TITLES:
        return False
    if lower in _MAY_END or _INITIALS.match(word):
        return _STARTER.match(line, after) is not None
    return True


def _is_enclosed(line: str, start: int, at: int) -> bool:
    """Say whether ``at`` stands in a title's brackets, or in round ones that opened in mid-sentence."""
    low, high = max(start, at - _WINDOW), at + _WINDOW
    for opening, closing in _TITLE_BRACKETS:
        if line.find(opening, low, at) >= 0 and line.rfind(opening, low, at) > line.rfind(closing, low, at):
            return line.find(closing, at, high) >= 0
    opened = line.rfind("(", low, at)
    return opened > line.rfind(")", low, at) and bool(line[start:opened].strip()) and line.find(")", at, high) >= 0


@functools.cache
def _kiwi() -> Any:
    try:
        from kiwipiepy import Kiwi
    except ImportError:
        raise InputError(
            "sentences by 'kiwi' need the package kiwipiepy: pip install 'bertsmith[ko]'; or choose 'rules'"
        ) from None
    # One thread: several would be started in each worker process.
    return Kiwi(num_workers=1)
