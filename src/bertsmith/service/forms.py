"""What requests hold and what answers do, as the documentation shows them; and inputs as the tasks take them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from bertsmith.errors import InputError, nearest


class Form(BaseModel):
    """A request's body; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class PredictForm(Form):
    """Inputs for a fine-tuned model."""

    inputs: list[Any] | None = Field(
        None,
        description="Many inputs. A text, or for pairs [a, b] or {text, text_b}; for question answering {question, "
        "context}; for multiple choice {context, endings}.",
        examples=[["A film of quiet power.", "참 재미없는 영화"]],
    )
    input: Any | None = Field(None, description="One input, instead of inputs.")
    options: dict[str, Any] = Field(default_factory=dict, description="n_best: how many answers to a question to list.")


class EmbeddingsForm(BaseModel):
    """OpenAI's form; fields of theirs that mean nothing here are let pass."""

    model: str = Field(description="A model's id, of /v1/models.")
    input: str | list[str] = Field(description="A text, or many.", examples=[["A cat sat.", "고양이가 앉았다."]])
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: little-endian float32.")
    dimensions: int | None = Field(None, description="If given, the model's own number.")

    @field_validator("input", mode="before")
    @classmethod
    def _texts(cls, given: Any) -> Any:
        # One sentence instead of one for each of the types that it may have.
        if not isinstance(given, str) and not (
            isinstance(given, list) and all(isinstance(each, str) for each in given)
        ):
            raise ValueError("expected a text or a list of texts")
        return given


class FillForm(Form):
    """A text with blanks."""

    text: str = Field(description="With [MASK] where a word is to be filled in.", examples=["Paris is in [MASK]."])
    top_k: int = Field(5, ge=1, le=100, description="How many tokens for each blank.")


class NextForm(Form):
    """Two sentences."""

    a: str = Field(examples=["The door opened."])
    b: str = Field(description="Does it follow?", examples=["A man came in."])


class TextForm(Form):
    """A text, or a pair."""

    text: str = Field(examples=["나는 밥을 먹었다."])
    text_b: str | None = Field(None, description="The second text of a pair.")


class InsideForm(TextForm):
    """A text to look at inside a model."""

    layers: list[int] | None = Field(None, description="Numbers from 1; by default all layers.")


class MaskingForm(TextForm):
    """A text to be masked as in pre-training."""

    seed: int = Field(0, ge=0, le=2**63 - 1, description="Another one chooses other tokens.")


class ErrorSaid(BaseModel):
    """Why there is no answer."""

    message: str = Field(description="A sentence; in Korean if Accept-Language begins with ko.")
    type: Literal["invalid_request", "not_found", "too_large", "overloaded", "internal", "unauthorized"]
    param: str | None = Field(description="The field that it is about.")


class ErrorAnswer(BaseModel):
    """What every refusal looks like."""

    error: ErrorSaid


class Usage(BaseModel):
    """What a request cost."""

    tokens: int


class PredictAnswer(BaseModel):
    """Predictions, one an input; their fields depend on the task."""

    model: str
    predictions: list[dict[str, Any]]
    usage: Usage


class Token(BaseModel):
    """A token as the model sees it."""

    position: int
    token: str
    id: int
    segment: int
    word: int | None
    span: tuple[int, int] | None
    characters: str


class TokenizeAnswer(BaseModel):
    """A text's tokens."""

    tokens: list[Token]


class FillAnswer(BaseModel):
    """For each blank the likeliest tokens with their probabilities."""

    blanks: list[list[dict[str, Any]]]


class NextAnswer(BaseModel):
    """The probability that b is the sentence after a."""

    is_next: float


def as_input(given: Any, task: str, number: int) -> Any:
    """Return an input of a request as the task takes it in Python; its ``number`` is for messages.

    Raises:
        InputError: it does not have the task's fields.
    """
    if task == "qa":
        question, context = _fields(given, ("question", "context"), number)
        return question, context
    if task == "choose":
        context, endings = _fields(given, ("context", "endings"), number)
        if not isinstance(endings, list):
            raise InputError(f"input {number}: expected endings as a list of texts")
        return context, tuple(endings)
    if isinstance(given, list):
        return tuple(given)
    if isinstance(given, dict) and "text" in given and not set(given) - {"text", "text_b"}:
        text_b = given.get("text_b")
        return given["text"] if text_b is None else (given["text"], text_b)
    return given


def _fields(given: Any, names: tuple[str, str], number: int) -> tuple[Any, Any]:
    if isinstance(given, dict):
        for name in given:
            if name not in names:
                raise InputError(f"input {number} has the unknown field {name!r}.{nearest(name, names)}")
    values = [given.get(name) for name in names] if isinstance(given, dict) else given
    if not isinstance(values, list) or len(values) != 2 or not isinstance(values[0], str) or values[1] is None:
        raise InputError(f"input {number}: expected an object with {names[0]} and {names[1]}")
    return values[0], values[1]


def texts_of(value: Any, depth: int = 4) -> Iterator[str]:
    """Yield every text in a request's inputs; no text that a task takes stands deeper than ``depth``."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list) and depth:
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_of(part, depth - 1)
