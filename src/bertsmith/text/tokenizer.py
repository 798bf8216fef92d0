"""Text to WordPiece ids and back to the characters they came from.

Encoding is done by the ``tokenizers`` library. Two normalisations exist. *Published* vocabularies get what
BERT's own code does: control characters out, CJK ideographs apart, and, when lower-casing, accents stripped
(which takes Hangul apart; such vocabularies were made that way). Vocabularies learned here get NFC first and
keep accents and Hangul syllables whole, also when lower-casing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from bertsmith import files
from bertsmith.errors import InputError
from bertsmith.text.matching import WordMatcher

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PREFIX = "##"
MAX_WORD_CHARACTERS = 100
"""A longer word becomes [UNK], as in BERT."""

TOKENIZER_FILE, VOCAB_FILE, CONFIG_FILE = "tokenizer.json", "vocab.txt", "tokenizer_config.json"


@dataclass(frozen=True)
class Encoding:
    """A text or a pair as the encoder gets it.

    Attributes:
        ids: token ids with [CLS] and [SEP].
        tokens: the same as strings.
        segment_ids: 0 for the first text and its special tokens, 1 for the second.
        word_ids: which word of its text each token belongs to (from 0 in each text), None for special tokens.
        char_spans: (start, end) in the original string of its text, None for special tokens.
        truncated: tokens that were cut to fit the length limit.
    """

    ids: list[int]
    tokens: list[str]
    segment_ids: list[int]
    word_ids: list[int | None]
    char_spans: list[tuple[int, int] | None]
    truncated: int = 0


class Tokenizer:
    """A WordPiece vocabulary with its normalisation. Make one with :meth:`from_vocabulary` or :meth:`load`.

    Attributes:
        tokens: every entry; its index is its id.
        vocab_size: V.
        pad_id, unk_id, cls_id, sep_id, mask_id: ids of the special tokens.
        special_ids: (5,) int64, the same, sorted.
        starts_word: (V,) bool, false for ``##`` pieces.
        lowercase: whether text is lower-cased.
        splits_at_spaces: whether the ids of a text are those of its parts between spaces, one after the other.
        hash: SHA-256 of all that determines ids; equal hashes give equal ids for every text.
    """

    def __init__(self, backend: tokenizers.Tokenizer, where: Path | str) -> None:
        # Added tokens too: a fine-tuned model of others may have rows for them.
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.tokens: list[str] = sorted(vocabulary, key=vocabulary.__getitem__)
        if [vocabulary[token] for token in self.tokens] != list(range(len(self.tokens))):
            raise InputError("the vocabulary's ids are not 0, 1, 2, ...", path=where)
        missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
        if missing:
            raise InputError(f"the vocabulary lacks {', '.join(missing)}", path=where)
        self.vocab_size = len(self.tokens)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (vocabulary[t] for t in SPECIAL_TOKENS)
        self.special_ids = np.sort(np.array([vocabulary[t] for t in SPECIAL_TOKENS], dtype=np.int64))
        self.starts_word = np.array([not t.startswith(PREFIX) or t == PREFIX for t in self.tokens])
        backend.no_truncation()
        backend.no_padding()
        state = json.loads(backend.to_str())
        self.lowercase = any(n["type"] == "Lowercase" or n.get("lowercase") is True for n in _normalizers(state))
        added = [token for token in state["added_tokens"] if token["content"] not in SPECIAL_TOKENS]
        # An added token is found anywhere in the text, across spaces too.
        self.splits_at_spaces = not added and _splits_at_spaces(state)
        longest = state["model"]["max_input_chars_per_word"]
        rules = json.dumps([state["normalizer"], state["pre_tokenizer"], longest, *added], sort_keys=True)
        self.hash = hashlib.sha256("\n".join([rules, *self.tokens]).encode("utf-8", "surrogatepass")).hexdigest()
        # Text of users is text: "[SEP]" in it must not end a segment. Only on request are special tokens seen.
        self._with_special = backend
        self._plain = tokenizers.Tokenizer.from_str(backend.to_str())
        self._plain.encode_special_tokens = True

    def __reduce__(self) -> tuple[Any, ...]:
        # The library's own pickling forgets that special tokens in a text are text.
        return _from_json, (self._with_special.to_str(),)

    @classmethod
    def from_vocabulary(
        cls, path: str | Path, lowercase: bool | None = None, strip_accents: bool | None = None
    ) -> Tokenizer:
        """Make a tokenizer from a vocab.txt (one token a line), or from a directory that holds a vocabulary.

        Args:
            path: the file, or a directory as in :meth:`load`.
            lowercase: whether the vocabulary was made from lower-cased text. If not given: true unless an entry
                has a Latin capital letter. A directory knows by itself.
            strip_accents: when lower-casing, whether accents go too (which takes Hangul apart). If not given:
                as in BERT's code, except for a vocabulary whose entries hold accented letters or whole Hangul
                syllables; it cannot have been made that way, and gets NFC.

        Raises:
            InputError: not a vocabulary: unreadable, empty lines, repeated entries, no special tokens; or
                ``lowercase`` contradicts the directory.
        """
        path = Path(path)
        if path.is_dir():
            if not (path / TOKENIZER_FILE).is_file() and not (path / CONFIG_FILE).is_file():
                path = path / VOCAB_FILE
            else:
                tokenizer = cls.load(path)
                if lowercase is not None and lowercase != tokenizer.lowercase:
                    raise InputError(f"was made with lowercase={tokenizer.lowercase}, not {lowercase}", path=path)
                return tokenizer
        tokens = read_vocabulary(path)
        if lowercase is None:
            lowercase = not any(re.search("[A-Z]", token) for token in tokens if not re.fullmatch(r"\[.*\]", token))
        if strip_accents is None and lowercase and any(_loses_marks(token) for token in tokens):
            strip_accents = False
        return cls(_backend(tokens, _normalizer(lowercase, strip_accents)), path)

    @classmethod
    def from_tokens(cls, tokens: Sequence[str], lowercase: bool) -> Tokenizer:
        """Make the tokenizer of a vocabulary learned here: NFC, Hangul and accents kept whole."""
        return cls(_backend(tokens, own_normalizer(lowercase)), "the learned vocabulary")

    @classmethod
    def load(cls, directory: str | Path) -> Tokenizer:
        """Load the tokenizer of a model, store or vocabulary directory, also of one made by transformers.

        Raises:
            InputError: there is none, it is damaged, or it is not WordPiece with ``##``.
        """
        directory = Path(directory)
        path = directory / TOKENIZER_FILE
        if (directory / files.CHECKSUMS).is_file():
            own = (TOKENIZER_FILE, VOCAB_FILE, CONFIG_FILE)
            files.check_directory(directory, what="the tokenizer", only=lambda name: name in own)
        if path.is_file():
            try:
                backend = tokenizers.Tokenizer.from_file(str(path))
            except Exception as error:  # the library raises bare Exception for every damage
                raise InputError(f"is not a readable tokenizer: {error}", path=path) from None
            state = json.loads(backend.to_str())
            model = state["model"]
            if model["type"] != "WordPiece" or model["continuing_subword_prefix"] != PREFIX:
                raise InputError(f"is {model['type']}; expected WordPiece with '{PREFIX}'", path=path)
            return cls(backend, path)
        if (directory / VOCAB_FILE).is_file():
            settings: dict[str, Any] = {}
            if (directory / CONFIG_FILE).is_file():
                settings = files.read_json(directory / CONFIG_FILE, what="the settings of a tokenizer")
                for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
                    if not isinstance(settings.get(name), bool | None):
                        raise InputError(
                            f"{name} is {settings[name]!r}; expected true or false", path=directory / CONFIG_FILE
                        )
            tokens = read_vocabulary(directory / VOCAB_FILE)
            if "do_lower_case" not in settings:
                return cls.from_vocabulary(directory / VOCAB_FILE)
            normalizer = normalizers.BertNormalizer(
                clean_text=True,
                handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
                strip_accents=settings.get("strip_accents"),
                lowercase=settings["do_lower_case"],
            )
            return cls(_backend(tokens, normalizer), directory)
        raise InputError(f"holds no tokenizer: expected {TOKENIZER_FILE} or {VOCAB_FILE}", path=directory)

    def lowercased(self) -> Tokenizer:
        """Return this tokenizer with text lower-cased before all else; itself if it does so anyway."""
        if self.lowercase:
            return self
        backend = tokenizers.Tokenizer.from_str(self._with_special.to_str())
        steps = [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
        backend.normalizer = normalizers.Sequence(steps)
        return Tokenizer(backend, "the lower-casing tokenizer")

    def save(self, directory: str | Path) -> None:
        """Write tokenizer.json, vocab.txt and what transformers' AutoTokenizer needs to give the same ids."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        special = dict(zip(names, SPECIAL_TOKENS, strict=True))
        files.write_text(directory / TOKENIZER_FILE, self._with_special.to_str(pretty=True))
        files.write_text(directory / VOCAB_FILE, "\n".join(self.tokens) + "\n")
        # This class takes tokenizer.json as it is; BertTokenizer would rebuild the normaliser and lose NFC.
        files.write_json(directory / CONFIG_FILE, {"tokenizer_class": "PreTrainedTokenizerFast", **special})
        files.write_json(directory / "special_tokens_map.json", special)

    def encode(
        self, text: str, text_b: str | None = None, max_length: int | None = None, *, allow_special: bool = False
    ) -> Encoding:
        """Encode a text as ``[CLS] a [SEP]``, or a pair as ``[CLS] a [SEP] b [SEP]``.

        Args:
            text: the first text.
            text_b: the second.
            max_length: tokens are cut from the end of the longer text until this length is reached.
            allow_special: read ``[MASK]`` and its like in the text as special tokens.

        Raises:
            InputError: ``max_length`` leaves no room for a token.
        """
        return self.encode_batch([text if text_b is None else (text, text_b)], max_length, allow_special=allow_special)[
            0
        ]

    def encode_batch(
        self,
        texts: Sequence[str] | Sequence[tuple[str, str]] | Sequence[str | tuple[str, str]],
        max_length: int | None = None,
        *,
        allow_special: bool = False,
    ) -> list[Encoding]:
        """Encode many texts or pairs, each as :meth:`encode` does."""
        backend = self._with_special if allow_special else self._plain
        pairs = [(t,) if isinstance(t, str) else t for t in texts]
        parts = iter(backend.encode_batch([_clean(t) for pair in pairs for t in pair], add_special_tokens=False))
        return [self._join(pair, [next(parts) for _ in pair], max_length) for pair in pairs]

    def _join(self, texts: tuple[str, ...], parts: list[Any], max_length: int | None) -> Encoding:
        lengths = [len(part.ids) for part in parts]
        kept = list(lengths)
        if max_length is not None:
            room = max_length - 1 - len(parts)
            if room < len(parts):
                raise InputError(f"max_length {max_length} leaves no room for text beside the special tokens")
            kept = fit(lengths, room)
        ids, tokens, segments = [self.cls_id], ["[CLS]"], [0]
        words: list[int | None] = [None]
        spans: list[tuple[int, int] | None] = [None]
        for segment, (text, part, keep) in enumerate(zip(texts, parts, kept, strict=True)):
            ids += [*part.ids[:keep], self.sep_id]
            tokens += [*part.tokens[:keep], "[SEP]"]
            segments += [segment] * (keep + 1)
            words += [*part.word_ids[:keep], None]
            spans += [*_whole_characters(text, part.offsets)[:keep], None]
        return Encoding(ids, tokens, segments, words, spans, sum(lengths) - sum(kept))

    def sentence_ids(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """Return the ids (int64) of each sentence without special tokens; the fast path for much text."""
        encoded = self._plain.encode_batch_fast([_clean(s) for s in sentences], add_special_tokens=False)
        return [np.array(e.ids, dtype=np.int64) for e in encoded]

    def ids_and_starts(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return for each text (T,) int64 ids without special tokens, and (T,) int64 where in it each token starts."""
        encoded = self._plain.encode_batch([_clean(text) for text in texts], add_special_tokens=False)
        return [
            (np.array(e.ids, dtype=np.int64), np.array(e.offsets, dtype=np.int64).reshape(-1, 2)[:, 0]) for e in encoded
        ]

    @functools.cached_property
    def matcher(self) -> WordMatcher | None:
        """What cuts many words fast into the same ids; None if words do not end at spaces."""
        return WordMatcher(self._plain) if self.splits_at_spaces else None

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return readable text: pieces joined to words, words joined by spaces, special tokens kept."""
        words: list[str] = []
        for number in ids:
            token = self.tokens[int(number)]
            if words and not self.starts_word[int(number)]:
                words[-1] += token[len(PREFIX) :]
            else:
                words.append(token)
        return " ".join(words)


def _from_json(text: str) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(text), "a tokenizer of another process")


def own_normalizer(lowercase: bool) -> normalizers.Normalizer:
    """Return the normalisation of vocabularies learned here."""
    keep = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=lowercase
    )
    return normalizers.Sequence([normalizers.NFC(), keep])


def read_vocabulary(path: Path) -> list[str]:
    """Read one token a line.

    Raises:
        InputError: the file cannot be read, is not UTF-8, or has an empty or repeated entry.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise InputError("no such vocabulary; expected a vocab.txt or a vocabulary's directory", path=path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path) from None
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 at byte {error.start}; expected one token a line", path=path) from None
    if lines[-1] == "":
        lines.pop()
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        token = line.removesuffix("\r")
        if not token:
            raise InputError("is empty; expected one token a line", path=path, line=number)
        if token in seen:
            raise InputError(f"repeats {token!r} of line {seen[token]}", path=path, line=number)
        seen[token] = number
    return list(seen)


def _splits_at_spaces(state: dict[str, Any]) -> bool:
    """Tell whether no rule of a tokenizer looks across a space: each character is normalised by its neighbours in
    the word at most (nothing composes with a space), and every space ends a word.
    """
    return (state["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer" and all(
        part["type"] in ("BertNormalizer", "NFC", "NFD", "Lowercase", "StripAccents") for part in _normalizers(state)
    )


def _normalizers(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the normalising steps of a tokenizer in their order."""
    steps: list[dict[str, Any]] = []
    waiting = [state["normalizer"]] if state["normalizer"] else []
    while waiting:
        step = waiting.pop(0)
        if step["type"] == "Sequence":
            waiting = [*step["normalizers"], *waiting]
        else:
            steps.append(step)
    return steps


def _normalizer(lowercase: bool, strip_accents: bool | None) -> normalizers.Normalizer:
    if lowercase and strip_accents is False:
        return own_normalizer(lowercase)
    return normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=lowercase
    )


def _backend(tokens: Sequence[str], normalizer: normalizers.Normalizer) -> tokenizers.Tokenizer:
    vocabulary = {token: number for number, token in enumerate(tokens)}
    model = models.WordPiece(
        vocabulary, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_CHARACTERS, continuing_subword_prefix=PREFIX
    )
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=PREFIX)
    present = [token for token in SPECIAL_TOKENS if token in vocabulary]
    backend.add_special_tokens(present)
    if len(present) == len(SPECIAL_TOKENS):
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
        )
    return backend


def fit(lengths: list[int], room: int) -> list[int]:
    """Return how much of each part stays when tokens are taken from the longer one (the second, if equal)."""
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    first, second = lengths
    short = min(first, second, room // 2)
    if first <= second:
        first = max(short, min(first, room - room // 2))
        return [first, room - first]
    second = max(short, min(second, room // 2))
    return [room - second, second]


def _whole_characters(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Widen spans over decomposed characters to their end; composing reports only where they begin."""
    if unicodedata.is_normalized("NFC", text):
        return spans
    widened = []
    # A mark that nothing composes with is a token of its own, and keeps its place.
    limits = [*(start for start, _ in spans[1:]), len(text)]
    for (start, end), limit in zip(spans, limits, strict=False):
        while start < end < limit and _continues(text[end]):
            end += 1
        widened.append((start, end))
    return widened


def _continues(character: str) -> bool:
    # Combining marks, and the vowels and final consonants of decomposed Hangul.
    return unicodedata.combining(character) > 0 or "\u1160" <= character <= "\u11ff"


def _loses_marks(token: str) -> bool:
    return any(unicodedata.category(c) == "Mn" or len(unicodedata.normalize("NFD", c)) > 1 for c in token)


def _clean(text: str) -> str:
    # A lone surrogate (from broken JSON) has no UTF-8 form; one character for one keeps the spans right.
    return re.sub("[\ud800-\udfff]", "�", text)
