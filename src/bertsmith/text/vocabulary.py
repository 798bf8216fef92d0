"""``bertsmith vocab``: learn a WordPiece vocabulary from text, and say how well it fits text that it has not seen."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tokenizers import pre_tokenizers

from bertsmith import files
from bertsmith.config import VocabularySettings
from bertsmith.console import Log, human
from bertsmith.errors import InputError
from bertsmith.remote import Source, size_of
from bertsmith.text.cluster import Cluster, Task, connected
from bertsmith.text.corpus import Corpus, CorpusDocument, SeenTexts, grouped
from bertsmith.text.readers import Document, ReadReport, find_files, read_documents
from bertsmith.text.tokenizer import SPECIAL_TOKENS, VOCAB_FILE, Tokenizer, own_normalizer
from bertsmith.text.wordpiece import learn_pieces

REPORT_FILE = "report.json"
_HELD_OUT_CHARACTERS = 5_000_000
_PLAIN_WORD = re.compile("[A-Za-z0-9가-힣]+")


@dataclass(frozen=True)
class Fit:
    """How a vocabulary fits a text.

    Attributes:
        words: words after splitting at white space and punctuation.
        tokens_per_word: WordPiece tokens per word.
        unknown_rate: share of words that become [UNK].
        scripts: for each script its share of the characters, and the share of these inside known words.
    """

    words: int
    tokens_per_word: float
    unknown_rate: float
    scripts: dict[str, dict[str, float]]


@dataclass(frozen=True)
class VocabularyReport:
    """What was learned.

    Attributes:
        directory: where the vocabulary is.
        size: its entries.
        alphabet: single characters among them, in either form.
        documents: documents that were learned from.
        held_out_documents: documents that were kept for ``fit``.
        distinct_words: different words that were learned from.
        pruned: whether rare words were dropped while counting.
        fit: on held-out text, or on the learned text if none was held out (then ``held_out_documents`` is 0).
    """

    directory: Path
    size: int
    alphabet: int
    documents: int
    held_out_documents: int
    distinct_words: int
    pruned: bool
    fit: Fit


class WordCounter:
    """Counts words of text that is streamed through it; memory is bounded by the number of distinct words.

    White-space-separated strings are counted as they stand, and only at the end each distinct one is normalised
    and split at punctuation, which gives the same counts and is much faster.

    Args:
        lowercase: as in the tokenizer.
        max_words: when there are more distinct strings, the rarest are dropped until half as many are left.
    """

    def __init__(self, lowercase: bool, max_words: int) -> None:
        self.lowercase = lowercase
        self.max_words = max_words
        self.pruned_below = 0
        self._raw: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Count the words of ``text``."""
        self.add_counts(Counter(text.split()))

    def add_counts(self, counts: Mapping[str, int]) -> None:
        """Add words that somebody else has counted."""
        self._raw.update(counts)
        while len(self._raw) > self.max_words:
            self.pruned_below += 1
            kept = {word: count for word, count in self._raw.items() if count > self.pruned_below}
            self._raw = Counter(kept)
            if len(self._raw) <= self.max_words // 2:
                break

    def counts(self) -> Counter[str]:
        """Return the counts of normalised words."""
        normalizer, splitter = own_normalizer(self.lowercase), pre_tokenizers.BertPreTokenizer()
        counts: Counter[str] = Counter()
        for raw, count in self._raw.items():
            if _PLAIN_WORD.fullmatch(raw):
                counts[raw.lower() if self.lowercase else raw] += count
            else:
                for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(raw)):
                    counts[word] += count
        return counts


def learn_vocabulary(settings: VocabularySettings, log: Log | None = None) -> VocabularyReport:
    """Learn a vocabulary and write it as a tokenizer directory with report.json and config.yaml.

    Raises:
        InputError: the corpus is empty or unreadable, the size is below the alphabet, or the output is taken.
    """
    _refuse_foreign_output(settings.output)
    with files.only_writer_of(settings.output):
        return _learn(settings, log or Log())


def _learn(settings: VocabularySettings, log: Log) -> VocabularyReport:
    """Do what :func:`learn_vocabulary` does."""
    reading = ReadReport()
    paths = find_files(settings.corpus, settings, reading)
    counter = WordCounter(settings.lowercase, settings.max_words)
    held_out: list[str] = []
    held_characters = held_documents = documents = 0
    size = sum(map(size_of, paths))
    with connected(settings) as cluster, log.progress("counting words", size / 1e6, "MB") as advance:
        for counted, megabytes in _counted(paths, settings, reading, cluster, log):
            counter.add_counts(counted.words)
            documents += counted.documents
            held_documents += len(counted.held_out)
            for text in counted.held_out:
                if held_characters < _HELD_OUT_CHARACTERS:
                    held_out.append(text)
                    held_characters += len(text)
            advance(megabytes)
    if not documents and held_out:
        # A tiny corpus may fall into the held-out share as a whole: then it is better to learn from it.
        for text in held_out:
            counter.add(text)
        documents, held_documents, held_out = held_documents, 0, []
    counts = counter.counts()
    if not counts:
        raise InputError("the corpus holds no words", path=paths[0])
    for warning in reading.warnings():
        log.warn(warning)
    if counter.pruned_below:
        log.warn(
            f"more than {settings.max_words:,} distinct words: those counted {counter.pruned_below} time(s) or less "
            "at that point were dropped (--max-words)"
        )
    with log.progress("learning pieces", settings.size, "pieces") as advance:
        pieces = learn_pieces(
            counts,
            settings.size,
            special_tokens=SPECIAL_TOKENS,
            coverage=settings.coverage,
            min_frequency=settings.min_frequency,
            advance=advance,
        )
    if len(pieces) < settings.size:
        log.warn(f"the text gives {len(pieces):,} entries and no more (asked for {settings.size:,})")
    tokenizer = Tokenizer.from_tokens(pieces, settings.lowercase)
    report = VocabularyReport(
        directory=settings.output,
        size=len(pieces),
        alphabet=sum(len(piece.removeprefix("##")) == 1 for piece in pieces),
        documents=documents,
        held_out_documents=held_documents,
        distinct_words=len(counts),
        pruned=counter.pruned_below > 0,
        fit=measure_fit(tokenizer, held_out) if held_out else fit_of_counts(tokenizer, counts),
    )
    with files.new_directory(settings.output) as temporary:
        tokenizer.save(temporary)
        files.write_json(temporary / REPORT_FILE, asdict(report) | {"directory": None, "hash": tokenizer.hash})
        settings.write(temporary / "config.yaml")
    _say(report, settings, log)
    return report


def _refuse_foreign_output(output: Path) -> None:
    """Refuse an output that holds, or stands below, anything else than an earlier vocabulary: it would be lost."""
    above = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not above.is_dir():
        raise InputError("is a file; expected a directory or a new name", path=above)
    if above != output or not any(output.iterdir()):
        return
    if not (output / VOCAB_FILE).is_file() or not (output / files.CHECKSUMS).is_file():
        raise InputError("exists and is not a vocabulary; choose another output", path=output)
    known = {*files.read_json(output / files.CHECKSUMS, what="the checksums of a vocabulary"), files.CHECKSUMS}
    foreign = sorted(entry.name for entry in output.iterdir() if entry.name not in known)
    if foreign:
        raise InputError(
            f"holds something beside a vocabulary ({', '.join(foreign[:3])}); choose another output", path=output
        )
    if REPORT_FILE not in known:
        raise InputError("is not what 'bertsmith vocab' wrote; choose another output", path=output)


@dataclass(frozen=True)
class CountedWords:
    """What is counted in consecutive documents of a file.

    Attributes:
        words: of the documents to learn from, as they stand between white space.
        documents: how many these are.
        held_out: the texts of the others.
    """

    words: Counter[str]
    documents: int
    held_out: list[str]


def count_words(documents: Sequence[Document | CorpusDocument], held_out: float) -> CountedWords:
    """Count the words of documents but the share that is held out."""
    words: Counter[str] = Counter()
    held: list[str] = []
    for document in documents:
        if _is_held_out(document.text, held_out):
            held.append(document.text)
        else:
            words.update(document.text.split())
    return CountedWords(words, len(documents) - len(held), held)


def _counted(
    paths: Sequence[Source], settings: VocabularySettings, reading: ReadReport, cluster: Cluster | None, log: Log
) -> Iterator[tuple[CountedWords, float]]:
    """Yield what is counted in each batch of the corpus, and about how many MB that was."""
    if cluster is not None:
        yield from _counted_by(cluster, paths, settings, reading, log)
        return
    seen = SeenTexts()
    for path in paths:
        documents = (
            document
            for document in read_documents(path, settings, reading)
            if settings.keep_duplicates or seen.add(document.text.encode("utf-8", "surrogatepass"))
        )
        for batch, _ in grouped(documents):
            megabytes = sum(len(document.text.encode("utf-8", "surrogatepass")) for document in batch) / 1e6
            yield count_words(batch, settings.held_out), megabytes


def _counted_by(
    cluster: Cluster, paths: Sequence[Source], settings: VocabularySettings, reading: ReadReport, log: Log
) -> Iterator[tuple[CountedWords, float]]:
    """Do the same on a cluster: a first pass tells which documents are copies, a second counts the others."""
    keep = None
    if not settings.keep_duplicates:
        corpus = Corpus(paths, settings)
        found: list[list[bool]] = [[] for _ in paths]
        for part in cluster.parts(Task(settings, None, None), paths, log):
            found[part.source] += corpus.admit([digest.tobytes() for digest in part.digests])
        keep = [np.array(flags, dtype=bool) for flags in found]
    work = functools.partial(count_words, held_out=settings.held_out)
    for part in cluster.parts(Task(settings, None, work), paths, log, keep):
        if part.end is not None:
            reading.merge(part.end[1])
        if part.result is not None:
            yield part.result, part.megabytes


def _is_held_out(text: str, share: float) -> bool:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=b"held-out").digest()
    return int.from_bytes(digest, "big") < share * 2**64


def measure_fit(tokenizer: Tokenizer, texts: Iterable[str]) -> Fit:
    """Measure how ``tokenizer`` fits ``texts``."""
    counter = WordCounter(tokenizer.lowercase, max_words=1 << 62)
    for text in texts:
        counter.add(text)
    return fit_of_counts(tokenizer, counter.counts())


def fit_of_counts(tokenizer: Tokenizer, counts: Counter[str]) -> Fit:
    """Measure how ``tokenizer`` fits words that are already normalised."""
    words = sorted(counts)
    tokens = unknown = 0
    characters: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    for word, ids in zip(words, tokenizer.sentence_ids(words), strict=True):
        count = counts[word]
        is_unknown = bool(np.any(ids == tokenizer.unk_id))
        tokens += count * len(ids)
        unknown += count * is_unknown
        for character in word:
            name = script(character)
            characters[name] += count
            covered[name] += count * (not is_unknown)
    total = max(1, counts.total())
    scripts = {
        name: {"share": number / characters.total(), "covered": covered[name] / number}
        for name, number in characters.most_common()
    }
    return Fit(counts.total(), tokens / total, unknown / total, scripts)


def script(character: str) -> str:
    """Return the script of a character as far as a coverage report needs it."""
    if character.isdigit():
        return "digits"
    category = unicodedata.category(character)
    if category[0] in "PS":
        return "punctuation"
    name = unicodedata.name(character, "")
    for known in ("HANGUL", "LATIN", "HIRAGANA", "KATAKANA", "CYRILLIC", "GREEK", "ARABIC"):
        if name.startswith(known):
            return "Kana" if known in ("HIRAGANA", "KATAKANA") else known.capitalize()
    return "Han" if name.startswith("CJK") else "other"


def _say(report: VocabularyReport, settings: VocabularySettings, log: Log) -> None:
    where = f"{report.held_out_documents:,} held-out documents" if report.held_out_documents else "the learned text"
    log.say(
        f"{report.size:,} entries ({report.alphabet:,} single characters) from {report.documents:,} documents, "
        f"{human(report.distinct_words)} distinct words"
    )
    log.say(
        f"on {where}: {report.fit.tokens_per_word:.3f} tokens per word, {report.fit.unknown_rate:.3%} of words unknown"
    )
    for name, figures in report.fit.scripts.items():
        log.say(f"  {name:<12} {figures['share']:7.2%} of the characters, {figures['covered']:.2%} in known words")
    corpus = " ".join(str(path) for path in settings.corpus)
    log.say(f"vocabulary: {settings.output / VOCAB_FILE}")
    log.say(f"next: bertsmith prepare {corpus} --vocab {settings.output} -o STORE")
