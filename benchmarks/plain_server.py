"""The plain way to serve embeddings: FastAPI before sentence-transformers, a request a call, in a thread.

python benchmarks/plain_server.py MODEL PORT
"""

from __future__ import annotations

import base64
import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer


class Form(BaseModel):
    """OpenAI's form."""

    model: str
    input: list[str]
    encoding_format: str = "base64"


def make(model: str) -> FastAPI:
    network = SentenceTransformer(model, device="cpu")
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    # Not async: the framework runs it in one of its threads.
    @app.post("/v1/embeddings")
    def embeddings(form: Form) -> dict[str, object]:
        vectors = network.encode(form.input, show_progress_bar=False)
        data = [{"index": n, "embedding": base64.b64encode(v.tobytes()).decode()} for n, v in enumerate(vectors)]
        return {"data": data, "model": form.model}

    return app


if __name__ == "__main__":
    uvicorn.run(make(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
