"""What a user may set of models behind HTTP."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from bertsmith.configuration import Configuration, Duration, argument
from bertsmith.task_config import BackendChoice, LongTexts


class ServeSettings(Configuration):
    """``bertsmith serve``: models behind HTTP, and a page to try them."""

    models: list[str] = argument(
        "Fine-tuned models, pre-training runs, BERT or sentence-transformers directories, or hub:owner/name; NAME=DIR "
        "gives one another name than its directory's.",
        min_length=1,
    )
    host: str = Field(
        "127.0.0.1", description="The address to listen at; by default only this machine can reach it. 0.0.0.0: all."
    )
    port: int = Field(8000, ge=0, le=65_535, description="The port; 0 takes a free one.")
    api_key_file: Path | None = Field(
        None,
        description="A file with the keys that are asked for, one a line; by default BERTSMITH_API_KEY, if it is set.",
    )
    insecure: bool = Field(
        False,
        description="Let others than this machine in without a key.",
        json_schema_extra={"option": "--insecure"},
    )
    allow_host: list[str] | None = Field(
        None, description="A name by which the service is asked for, beside its address (behind a proxy); repeat it."
    )
    cors_origin: list[str] | None = Field(
        None, description="A site whose pages may ask from a browser (https://example.org); repeat it. By default none."
    )
    long_texts: LongTexts = "windows"
    backend: BackendChoice = "auto"
    device: str = Field("auto", description="cpu, cuda, cuda:1 or mps; auto takes a GPU where there is one.")
    threads: int = Field(0, ge=0, description="CPU threads; 0 takes what the machine's quota allows.")
    workers: int = Field(
        0,
        ge=0,
        le=64,
        description="Batches that are computed side by side and share the threads; 0: two on a CPU, one on a GPU.",
    )
    max_batch_tokens: int | None = Field(
        None,
        ge=8,
        description="Tokens of a batch, of one request or many; more: higher throughput, longer waits. By default "
        "2048, and 16,384 on a GPU.",
    )
    max_wait: float = Field(
        0.002, ge=0, le=1, description="Seconds that a request waits for others to share its batch."
    )
    max_requests: int = Field(256, ge=1, description="Requests that are in the house at a time; others get 429.")
    max_queue_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens that wait, from which on requests get 429 until there is room, of each request one batch "
        "at most; by default 16 batches.",
    )
    max_body: int = Field(2_000_000, ge=100, description="Bytes of a request's body; larger ones get 413.")
    max_texts: int = Field(1024, ge=1, description="Texts of a request; more get 413.")
    max_characters: int = Field(
        100_000,
        ge=1,
        description="Characters of a text; longer ones get 413. What a model has no room for is cut, and the answer "
        "says so.",
    )
    max_shutdown: Duration = Field(
        30.0, description="Seconds that running requests have left after Ctrl-C or SIGTERM (also 30s, 2m)."
    )
    quiet: bool = Field(False, description="Say nothing but warnings, and no line a request.")
