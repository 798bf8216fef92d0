"""The vectors are those of transformers' hidden states, whatever the company, the threads and the length."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from bertsmith.batch import join
from bertsmith.errors import InputError
from bertsmith.features import encoder as encoder_module
from bertsmith.features.encoder import Encoder, Text
from bertsmith.features.layers import CHOICES, parse_layers
from bertsmith.text.tokenizer import Tokenizer
from tests.features.small import HIDDEN, LAYERS, POSITIONS, save, some_texts

REAL = [
    "A film of quiet power, told without a false note.",
    "It is not.",
    "나는 오늘 영화를 봤다 — 정말 재미있었다!",
    "",
    " ".join(["The long and winding sentence goes on about nothing in particular,"] * 40),
]


def theirs(directory: Path, texts: list[Text], max_length: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return transformers' hidden states, L + 1 of (N, longest, H), and the mask."""
    transformers = pytest.importorskip("transformers")
    network = transformers.AutoModel.from_pretrained(directory, attn_implementation="eager").eval()
    tokenizer = Tokenizer.load(directory)
    encodings = tokenizer.encode_batch(texts, max_length)
    longest = max(len(e.ids) for e in encodings)
    rows = {"input_ids": [e.ids for e in encodings], "token_type_ids": [e.segment_ids for e in encodings]}
    padded = {
        name: torch.tensor([[*row, *[0] * (longest - len(row))] for row in values]) for name, values in rows.items()
    }
    mask = torch.tensor([[n < len(e.ids) for n in range(longest)] for e in encodings])
    with torch.no_grad():
        output = network(**padded, attention_mask=mask.long(), output_hidden_states=True)
    return list(output.hidden_states), mask


def expected(states: list[torch.Tensor], mask: torch.Tensor, layers: str, pooling: str) -> np.ndarray:
    """Pooling written out."""
    if pooling == "first-last-mean":
        tokens, pooling = (states[1] + states[-1]) / 2, "mean"
    elif layers == "sum-last-4":
        tokens = states[-1] + states[-2] + states[-3] + states[-4]
    else:
        places = {
            "last": [-1],
            "second-to-last": [-2],
            "concat-last-4": [-4, -3, -2, -1],
            "all": list(range(len(states))),
            "-1,-3": [-1, -3],
            "0": [0],
            "2,0,2": [2, 0, 2],
        }[layers]
        tokens = torch.cat([states[place] for place in places], 2)
    if pooling == "cls":
        return tokens[:, 0].numpy()
    if pooling == "max":
        return tokens.masked_fill(~mask[..., None], -torch.inf).amax(1).numpy()
    return ((tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()


CASES = [
    *itertools.product([*CHOICES, "-1,-3", "0", "2,0,2"], ["cls", "mean", "max"]),
    ("last", "first-last-mean"),
]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("layers", "pooling"), CASES)
def test_vectors_are_those_of_transformers(model: Path, layers: str, pooling: str, normalize: bool) -> None:
    texts: list[Text] = [*some_texts(29), "", " ", "좋아 🙂 zzz", ("abc d", "ef"), ("a " * 70, "b " * 90)]
    encoder = Encoder.load(model, layers=layers, pooling=pooling, normalize=normalize, threads=2)  # type: ignore[arg-type]
    vectors = encoder.encode(texts)
    wanted = expected(*theirs(model, texts, POSITIONS), layers, pooling)
    if normalize:
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(texts), encoder.width) == wanted.shape
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)


@pytest.mark.parametrize(("layers", "pooling"), [("last", "mean"), ("concat-last-4", "cls"), ("all", "max")])
def test_the_real_encoder(sentence_model: Path, layers: str, pooling: str) -> None:
    given = {"layers": layers, "pooling": pooling, "normalize": False, "max_length": 100}
    encoder = Encoder.load(sentence_model, **given)  # type: ignore[arg-type]
    wanted = expected(*theirs(sentence_model, list(REAL), 100), layers, pooling)
    np.testing.assert_allclose(encoder.encode(REAL), wanted, atol=1e-5)


def test_a_directory_of_sentence_transformers_says_how(sentence_model: Path) -> None:
    encoder = Encoder.load(sentence_model)
    wanted = expected(*theirs(sentence_model, list(REAL), 256), "last", "mean")
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    vectors = encoder.encode(REAL)
    assert (encoder.recipe.max_length, encoder.recipe.pooling) == (256, "mean")
    assert (vectors * wanted).sum(1).min() > 0.99999
    # Every layer's vectors, for a model that weighs them, are as they are.
    assert not Encoder.load(sentence_model, layers="all").recipe.normalize


def test_the_vector_that_sums_up_is_the_last_one_where_a_model_reads_left_to_right(tmp_path: Path) -> None:
    directory = save(tmp_path / "m", is_decoder=True)
    texts: list[Text] = [*some_texts(29), "", ("abc d", "ef"), "a " * 70]
    for layers in ("last", "0", "sum-last-4"):
        tokens = Encoder.load(directory, layers=layers, tokens=True, threads=1)
        (every,) = tokens.stream(texts, tokens=True)
        vectors = Encoder.load(directory, layers=layers, pooling="cls", threads=1).encode(texts)
        np.testing.assert_allclose(vectors, every.vectors[np.cumsum(every.lengths) - 1], atol=1e-5)
    # Above the embeddings, the first token's would be the same for all.
    assert np.ptp(vectors[:29], axis=0).max() > 0.5


def test_company_order_and_threads_do_not_matter(model: Path) -> None:
    texts = some_texts(1301, seed=1)
    vectors = Encoder.load(model, threads=1).encode(texts)
    assert np.ptp(vectors, axis=0).max() > 0.5, "the texts are too alike for this test to mean something"
    three = Encoder.load(model, threads=3)
    np.testing.assert_array_equal(three.encode(texts), vectors)
    np.testing.assert_allclose(three.encode(texts[::-1])[::-1], vectors, atol=1e-5)
    for n in range(0, len(texts), 97):
        np.testing.assert_allclose(three.encode([texts[n]])[0], vectors[n], atol=1e-5)


def test_texts_of_several_callers_share_a_batch(model: Path) -> None:
    encoder = Encoder.load(model)
    callers = [some_texts(5), [("abc d", "ef"), ""], some_texts(9, seed=1)]
    encoded = [encoder.encoded(texts) for texts in callers]
    vectors = encoder.vectors(join([own.batch(range(len(own.lengths))) for own in encoded]))
    np.testing.assert_allclose(vectors, np.concatenate([encoder.encode(texts) for texts in callers]), atol=1e-5)


def test_tokens_of_every_text(model: Path) -> None:
    texts = [*some_texts(700, seed=2), ""]
    encoder = Encoder.load(model, tokens=True, threads=2)
    states, mask = theirs(model, list(texts), POSITIONS)
    parts = list(encoder.stream(texts, tokens=True))
    assert len(parts) > 1
    np.testing.assert_array_equal(np.concatenate([p.lengths for p in parts]), mask.sum(1).numpy())
    np.testing.assert_allclose(np.concatenate([p.vectors for p in parts]), states[-1][mask].numpy(), atol=1e-5)
    ids = np.concatenate([p.token_ids for p in parts])
    np.testing.assert_array_equal(
        ids, np.concatenate([e.ids for e in encoder.tokenizer.encode_batch(texts, POSITIONS)])
    )


def test_torch_keeps_its_threads(model: Path) -> None:
    before = torch.get_num_threads()
    for part in Encoder.load(model, threads=3).stream(some_texts(20)):
        assert len(part.vectors) == 20
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_a_long_text_is_cut_and_counted(model: Path) -> None:
    (part,) = Encoder.load(model).stream(["ab " * 33_334, "a", "b " * 39])
    assert part.truncated == 1
    assert part.lengths.tolist() == [POSITIONS, 3, POSITIONS]


def test_memory_is_flat(model: Path) -> None:
    encoder = Encoder.load(model, threads=1)
    text = "abc de f " * 3

    def peak(count: int) -> int:
        tracemalloc.start()
        tracemalloc.reset_peak()
        assert sum(len(part.vectors) for part in encoder.stream(text for _ in range(count))) == count
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    few, many = peak(3_000), peak(12_000)
    # The vectors alone would be 0.7 MB more, the token ids 2 MB.
    assert many < few + 1_000_000


def test_windows_are_bounded_by_characters_and_by_vectors(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.load(model, threads=1)
    monkeypatch.setattr(encoder_module, "_WINDOW_CHARACTERS", 100)
    assert [len(p.vectors) for p in encoder.stream(["a" * 40] * 7)] == [3, 3, 1]
    monkeypatch.setattr(encoder_module, "_WINDOW_BYTES", 2 * 4 * HIDDEN * POSITIONS)
    assert [len(p.lengths) for p in encoder.stream(["a"] * 5, tokens=True)] == [2, 2, 1]


def test_unneeded_layers_are_not_run(model: Path) -> None:
    encoder = Encoder.load(model, layers="1")
    encoder.bert.layers[1].attention_norm.weight.data.fill_(torch.nan)
    assert np.isfinite(encoder.encode(["abc"])).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": "6"}, "layer 6: the model has 5 Transformer layer"),
        ({"layers": "-7"}, "expected 0 .the embeddings. to 5"),
        ({"layers": "lost"}, "Did you mean 'last'"),
        ({"layers": "weighted"}, "'bertsmith compare tag' writes if its models include bert-lstm-weighted"),
        ({"pooling": "meen"}, "Did you mean 'mean'"),
        ({"pooling": "first-last-mean", "layers": "all"}, "says the layers itself"),
        ({"pooling": "max", "tokens": True}, "makes one vector"),
        ({"max_length": 42}, "expected 3 to 41"),
        ({"max_length": 2}, "expected 3 to 41"),
    ],
)
def test_settings_that_the_model_cannot_have(model: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Encoder.load(model, **settings)  # type: ignore[arg-type]


def test_few_layers_have_no_last_four() -> None:
    assert parse_layers("sum-last-4", 4).numbers == (1, 2, 3, 4)
    with pytest.raises(InputError, match="only 3 Transformer"):
        parse_layers("concat-last-4", 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("one string", "put it in a list"),
        (["a", None], "text 2 is of type NoneType"),
        (["a", ("b", "c", "d")], "text 2 is of type str, str, str"),
        ([3.5], "text 1 is of type float"),
    ],
)
def test_what_is_no_text(model: Path, given: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Encoder.load(model).encode(given)


def test_an_error_in_a_stream_names_the_number(model: Path) -> None:
    texts = [*some_texts(600), 7]
    with pytest.raises(InputError, match="text 601 is of type int"):
        list(Encoder.load(model, threads=2).stream(texts))  # type: ignore[arg-type]


def test_layer_width() -> None:
    assert parse_layers("all", LAYERS).width(HIDDEN) == (LAYERS + 1) * HIDDEN
    assert parse_layers("sum-last-4", LAYERS).width(HIDDEN) == HIDDEN


@pytest.mark.parametrize("fixed", [True, False])
def test_bfloat16_is_near(sentence_model: Path, fixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fixed:
        monkeypatch.setattr(encoder_module, "fix_weights", lambda bert, dtype: False)
    texts = [text for text in REAL if text]
    vectors = Encoder.load(sentence_model, precision="bfloat16").encode(texts)
    wanted = Encoder.load(sentence_model).encode(texts)
    assert vectors.dtype == np.float32
    assert 0.999 < (vectors * wanted).sum(1).min() < 1 - 1e-6, "not near, or not in bfloat16"
