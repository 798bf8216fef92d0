"""What the models of a service can be asked over HTTP."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from bertsmith.batch import Batch
from bertsmith.service.forms import (
    EmbeddingsForm,
    ErrorAnswer,
    FillAnswer,
    FillForm,
    InsideForm,
    MaskingForm,
    NextAnswer,
    NextForm,
    PredictAnswer,
    PredictForm,
    TextForm,
    TokenizeAnswer,
    as_input,
    texts_of,
)
from bertsmith.service.problems import ProblemError, too_large
from bertsmith.service.service import Service, noted
from bertsmith.serving.inside import MOST_TOKENS, look_inside, masked_instance, token_json
from bertsmith.serving.looking import batch_of_pair, batch_with_blanks, likeliest, share_of_next, token_rows

_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorAnswer, "description": "No valid key."},
    404: {"model": ErrorAnswer, "description": "No such model, or it cannot do this."},
    413: {"model": ErrorAnswer, "description": "Beyond a limit, which is named."},
    422: {"model": ErrorAnswer, "description": "A field or a text that cannot be used."},
    429: {"model": ErrorAnswer, "description": "Too much at a time; Retry-After says when to try again."},
}

_MOST_BLANKS = 64
_MOST_ENDINGS = 32
"""Bounds of what one item of a batch may be."""


@dataclass(frozen=True)
class _One:
    """Work of a single item.

    Attributes:
        value: what the lane takes for it.
        tokens: its length.
    """

    value: Any
    tokens: int

    @property
    def lengths(self) -> list[int]:
        return [self.tokens]

    def batch(self, numbers: Sequence[int]) -> Any:
        return self.value


def model_routes(service: Service) -> APIRouter:
    """Return the routes below ``/v1``."""
    router = APIRouter(prefix="/v1", responses=_REFUSALS)

    @router.get("/models", tags=["models"], summary="The models that are served, and what each can be asked.")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model.describe() for model in service.models.values()]}

    @router.get("/models/{name}", tags=["models"], summary="One model.")
    async def model(name: str, request: Request) -> dict[str, Any]:
        return service.model(name, "tokenize", request).describe()

    @router.post(
        "/models/{name}/predict",
        response_model=PredictAnswer,
        tags=["tasks"],
        summary="What a fine-tuned model says about texts.",
    )
    async def predict(name: str, form: PredictForm, request: Request) -> Response:
        served = service.model(name, "predict", request)
        predictor = served.predictor
        assert predictor is not None
        assert served.predicting is not None
        task = predictor.task
        given = _given(form)
        service.admit(len(given), list(texts_of(given)), request)
        facts = predictor.facts | _options(form.options, task.name)
        inputs = [(n, as_input(each, task.name, n)) for n, each in enumerate(given, start=1)]
        if task.name == "choose":
            most = max(len(endings) for _, (_, endings) in inputs)
            if most > _MOST_ENDINGS:
                raise too_large("endings of a context", most, _MOST_ENDINGS, "endings")
        rows, examples = await service.in_thread(lambda: predictor.encode(inputs))
        outputs = await service.computed(served.predicting, examples, request)

        def made() -> dict[str, Any]:
            predictions = [found.to_json() for found in task.predict(outputs, examples, rows, facts)]
            return {"model": name, "predictions": predictions, "usage": {"tokens": noted(request).tokens}}

        return await service.answer(made)

    @router.post("/embeddings", tags=["vectors"], summary="Vectors of texts, in OpenAI's form.")
    async def embeddings(form: EmbeddingsForm, request: Request) -> Response:
        served = service.model(form.model, "embed", request)
        encoder = served.encoder
        assert encoder is not None
        assert served.embedding is not None
        if form.dimensions not in (None, encoder.width):
            raise ProblemError(
                422, f"dimensions {form.dimensions}; this model has {encoder.width} and no others", "dimensions"
            )
        texts = [form.input] if isinstance(form.input, str) else form.input
        service.admit(len(texts), texts, request)
        encoded = await service.in_thread(lambda: encoder.encoded(texts))
        vectors = await service.computed(served.embedding, encoded, request)

        def made() -> dict[str, Any]:
            written = [_base64(v) if form.encoding_format == "base64" else v.tolist() for v in vectors]
            data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(written)]
            tokens = noted(request).tokens
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            return {
                "object": "list",
                "data": data,
                "model": form.model,
                "usage": usage,
                "truncated": encoded.truncated,
            }

        return await service.answer(made)

    @router.post("/models/{name}/fill", response_model=FillAnswer, tags=["pre-training"], summary="Fill the [MASK]s.")
    async def fill(name: str, form: FillForm, request: Request) -> Response:
        served = service.model(name, "fill", request)
        assert served.pretraining is not None
        service.admit(1, [form.text], request)
        batch = await service.in_thread(lambda: batch_with_blanks(served.tokenizer, form.text))
        assert batch.masked_positions is not None
        if len(batch.masked_positions) > _MOST_BLANKS:
            raise too_large("[MASK]s of a text", len(batch.masked_positions), _MOST_BLANKS, "blanks")
        _check_length(batch, served.config.max_position_embeddings)
        [output] = await service.computed(served.pretraining, _One(batch, batch.num_tokens), request)

        def made() -> dict[str, Any]:
            blanks = likeliest(served.tokenizer, output.mlm_logits, form.top_k)
            named = [[{"token": token, "probability": share} for token, share in blank] for blank in blanks]
            return {"blanks": named}

        return await service.answer(made)

    @router.post(
        "/models/{name}/next", response_model=NextAnswer, tags=["pre-training"], summary="Does b follow after a?"
    )
    async def next_sentence(name: str, form: NextForm, request: Request) -> Response:
        served = service.model(name, "next", request)
        assert served.pretraining is not None
        service.admit(1, [form.a, form.b], request)
        limit = served.config.max_position_embeddings
        batch = await service.in_thread(lambda: batch_of_pair(served.tokenizer, form.a, form.b, limit))
        [output] = await service.computed(served.pretraining, _One(batch, batch.num_tokens), request)
        return await service.answer(lambda: {"is_next": share_of_next(output.nsp_logits)})

    @router.post(
        "/models/{name}/tokenize",
        response_model=TokenizeAnswer,
        tags=["looking"],
        summary="How the model sees a text: tokens, ids, words, segments, spans.",
    )
    async def tokenize(name: str, form: TextForm, request: Request) -> Response:
        served = service.model(name, "tokenize", request)
        service.admit(1, _texts(form), request)
        return await service.answer(
            lambda: {"tokens": [token_json(row) for row in token_rows(served.tokenizer, form.text, form.text_b)]}
        )

    @router.post(
        "/models/{name}/inside",
        tags=["looking"],
        summary="Inside BERT: segments, positions, and each head's attention.",
    )
    async def inside(name: str, form: InsideForm, request: Request) -> Response:
        served = service.model(name, "inside", request)
        service.admit(1, _texts(form), request)
        rows = await service.in_thread(lambda: token_rows(served.tokenizer, form.text, form.text_b))
        if len(rows) > MOST_TOKENS:
            raise too_large("tokens of a text to look at", len(rows), MOST_TOKENS, "tokens")

        encoder = served.encoder
        assert encoder is not None

        def looked() -> dict[str, Any]:
            return look_inside(encoder.bert, served.tokenizer, form.text, form.text_b, form.layers)

        [found] = await service.computed(served.alone, _One(looked, len(rows)), request)
        return await service.answer(lambda: found)

    @router.post(
        "/models/{name}/masking", tags=["looking"], summary="A text as pre-training might show it: what is masked."
    )
    async def masking(name: str, form: MaskingForm, request: Request) -> Response:
        served = service.model(name, "masking", request)
        service.admit(1, _texts(form), request)
        return await service.answer(
            lambda: {"tokens": masked_instance(served.tokenizer, form.text, form.text_b, form.seed)}
        )

    return router


def _given(form: PredictForm) -> list[Any]:
    if (form.inputs is None) == (form.input is None):
        raise ProblemError(422, "expected either inputs, a list, or input, a single one", "inputs")
    return [form.input] if form.inputs is None else form.inputs


def _options(options: dict[str, Any], task: str) -> dict[str, Any]:
    known = ("n_best",) if task == "qa" else ()
    for name, value in options.items():
        if name not in known:
            listed = f"options of {task}: {', '.join(known)}" if known else f"{task} takes none"
            raise ProblemError(422, f"unknown option {name!r}; {listed}", f"options.{name}")
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100:
            raise ProblemError(422, f"{name}: expected a number from 1 to 100", f"options.{name}")
    return options


def _texts(form: TextForm) -> list[str]:
    return [form.text] if form.text_b is None else [form.text, form.text_b]


def _check_length(batch: Batch, limit: int) -> None:
    if batch.num_tokens > limit:
        raise too_large("tokens of a text with blanks", batch.num_tokens, limit, "positions of the model")


def _base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
