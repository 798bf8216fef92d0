"""Every route gives what Python gives, for every task, alone and in company; what is wrong is a sentence."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import bertsmith
from bertsmith.features.encoder import Encoder
from bertsmith.serve_config import ServeSettings
from bertsmith.service.app import make_app
from bertsmith.service.models import load_model
from bertsmith.service.service import Service
from bertsmith.serving.looking import fill, next_sentence, show
from tests.features.small import some_texts
from tests.service.small import TUNED, close, json_inputs, python_inputs, service_of

LOCAL = "http://127.0.0.1"


@pytest.fixture(scope="module")
def service(directories: dict[str, Path]) -> Service:
    return service_of(directories)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(make_app(service), LOCAL) as found:
        yield found


def predictions(client: TestClient, task: str, given: list[Any]) -> list[dict[str, Any]]:
    response = client.post(f"/v1/models/{task}/predict", json={"inputs": given})
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["predictions"]
    return found


@pytest.mark.parametrize("task", TUNED)
def test_predictions_are_those_of_python(client: TestClient, directories: dict[str, Path], task: str) -> None:
    expected = [found.to_json() for found in bertsmith.load(directories[task], "cpu")(python_inputs(task))]
    expected = json.loads(json.dumps(expected))
    together = predictions(client, task, json_inputs(task))
    assert close(together, expected)
    assert len({json.dumps(found) for found in together}) > 1
    one = client.post(f"/v1/models/{task}/predict", json={"input": json_inputs(task)[4]}).json()
    assert close(one["predictions"], expected[4:5])
    assert one["model"] == task
    assert one["usage"]["tokens"] > 5


def test_company_of_other_requests_does_not_matter(client: TestClient, service: Service) -> None:
    def counted(what: str) -> float:
        names = {"model": "classify"}
        return service.metrics.registry.get_sample_value(f"bertsmith_batch_requests_{what}", names) or 0.0

    alone = {task: predictions(client, task, json_inputs(task)) for task in TUNED}
    asked = [(task, first) for first in range(0, 9, 2) for task in (*TUNED, "classify", "classify")]
    before = counted("sum"), counted("count")
    with ThreadPoolExecutor(16) as threads:
        answers = list(
            threads.map(lambda each: predictions(client, each[0], json_inputs(each[0])[each[1] :][:2]), asked)
        )
    for (task, first), found in zip(asked, answers, strict=True):
        assert close(found, alone[task][first : first + 2]), task
    assert counted("sum") - before[0] > counted("count") - before[1], "no two requests shared a batch"


def test_a_long_text_has_windows_or_is_flagged(client: TestClient, directories: dict[str, Path]) -> None:
    long = "abc de " * 40
    [found] = predictions(client, "classify", [long])
    assert found["windows"] > 2
    assert found["truncated"] == 0
    assert close(found, bertsmith.load(directories["classify"], "cpu")(long).to_json())
    cutting = load_model("classify", directories["classify"], "cpu", long_texts="cut")
    service = Service({"classify": cutting}, ServeSettings(models=["classify"], threads=1))
    with TestClient(make_app(service), LOCAL) as other:
        [found] = predictions(other, "classify", [long])
        assert found["truncated"] == len(show_ids(other, long)) - 33
    answer = client.post("/v1/embeddings", json={"model": "encoder", "input": [long, "a"]}).json()
    assert answer["truncated"] == 1


def show_ids(client: TestClient, text: str) -> list[int]:
    tokens = client.post("/v1/models/classify/tokenize", json={"text": text}).json()["tokens"]
    return [token["id"] for token in tokens]


def test_embeddings(client: TestClient, directories: dict[str, Path]) -> None:
    texts = [*some_texts(11), "", "좋아 🙂"]
    expected = Encoder.load(directories["classify"], device="cpu", threads=1).encode(texts)
    answer = client.post("/v1/embeddings", json={"model": "classify", "input": texts, "user": "somebody"}).json()
    assert [(each["object"], each["index"]) for each in answer["data"]] == [("embedding", n) for n in range(13)]
    np.testing.assert_allclose([each["embedding"] for each in answer["data"]], expected, atol=1e-5)
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 2 * 13
    asked = {"model": "classify", "input": texts[3], "encoding_format": "base64", "dimensions": 20}
    [written] = client.post("/v1/embeddings", json=asked).json()["data"]
    vector = np.frombuffer(base64.b64decode(written["embedding"]), dtype="<f4")
    np.testing.assert_allclose(vector, expected[3], atol=1e-5)


def test_pretraining_heads(client: TestClient, directories: dict[str, Path]) -> None:
    text = "abc [MASK] d [MASK]"
    answer = client.post("/v1/models/heads/fill", json={"text": text, "top_k": 3}).json()
    expected = [[{"token": t, "probability": p} for t, p in blank] for blank in fill(directories["heads"], text, 3)]
    assert close(answer["blanks"], expected)
    answer = client.post("/v1/models/heads/next", json={"a": "abc d", "b": "ef " * 50}).json()
    assert answer["is_next"] == pytest.approx(next_sentence(directories["heads"], "abc d", "ef " * 50), abs=1e-5)

    def both(n: int) -> tuple[Any, Any]:
        blanks = client.post("/v1/models/heads/fill", json={"text": f"{'a' * (n + 1)} [MASK]" + " [MASK]" * (n % 3)})
        follows = client.post("/v1/models/heads/next", json={"a": "b" * (n + 1), "b": "c"})
        return blanks.json(), follows.json()

    one_by_one = [both(n) for n in range(6)]
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(both, range(6)))
    for one, other in zip(one_by_one, together, strict=True):
        assert close(list(one), list(other))


def test_looking(client: TestClient, directories: dict[str, Path]) -> None:
    answer = client.post("/v1/models/encoder/tokenize", json={"text": "Abc 좋아", "text_b": "d"}).json()
    rows = show(directories["encoder"], "Abc 좋아", "d")
    assert [(t["token"], t["id"], t["characters"]) for t in answer["tokens"]] == [
        (r.token, r.token_id, r.characters) for r in rows
    ]
    answer = client.post("/v1/models/qa/inside", json={"text": "abc d", "layers": [2]}).json()
    attention = np.array(answer["attention"])
    assert attention.shape == (1, 2, len(answer["tokens"]), len(answer["tokens"]))
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-3)
    asked = {"text": "abc def ghi jkl " * 3, "seed": 7}
    masked = client.post("/v1/models/tag/masking", json=asked).json()["tokens"]
    assert masked == client.post("/v1/models/tag/masking", json=asked).json()["tokens"]
    assert any(token["chosen"] for token in masked)


def test_what_there_is(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [*TUNED, "heads", "encoder"]
    assert client.get("/v1/models/qa").json() == next(m for m in listed["data"] if m["id"] == "qa")
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}


def test_n_best_is_an_option_of_questions(client: TestClient) -> None:
    asked = {"input": json_inputs("qa")[0], "options": {"n_best": 2}}
    [found] = client.post("/v1/models/qa/predict", json=asked).json()["predictions"]
    assert len(found["n_best"]) == 3  # two, and that there is none
    [usual] = predictions(client, "qa", [asked["input"]])
    assert len(usual["n_best"]) == 5


def test_half_a_character_is_answered(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/models/classify/predict", content=b'{"input": "a \\ud83d b"}', headers=headers)
    assert response.status_code == 200
    assert json.loads(response.text)["predictions"][0]["text"] == "a \ud83d b"


@pytest.mark.parametrize(
    ("path", "body", "status", "message", "param"),
    [
        ("nowhere/predict", {"input": "a"}, 404, "no model 'nowhere' here. Models: classify,", "model"),
        ("clasify/predict", {"input": "a"}, 404, "Did you mean 'classify'?", "model"),
        ("encoder/predict", {"input": "a"}, 404, "the model 'encoder' cannot predict; it can: embed", None),
        ("classify/fill", {"text": "a [MASK]"}, 404, "cannot fill", None),
        ("classify/predict", {}, 422, "either inputs, a list, or input", "inputs"),
        ("classify/predict", {"input": "a", "inputs": ["a"]}, 422, "either inputs", "inputs"),
        ("classify/predict", {"inputs": []}, 422, "no texts", None),
        ("classify/predict", {"inputs": "a"}, 422, "inputs: Input should be a valid list", "inputs"),
        ("classify/predict", {"inputs": ["a", " "]}, 422, "text 2 is an empty text", None),
        ("classify/predict", {"inputs": ["a", 3]}, 422, "text 2 is of type int; expected a string", None),
        ("classify/predict", {"input": ["a", "b"]}, 422, "a pair, but the model was tuned on single", None),
        ("classify/predict", {"input": {"txt": "a"}}, 422, "row 1 has no column 'comment'", None),
        ("classify/predict", {"input": "a", "options": {"top": 1}}, 422, "unknown option 'top'", "options.top"),
        ("classify/predict", {"imput": "a"}, 422, "unknown field imput", "imput"),
        ("regress/predict", {"input": "a"}, 422, "is one text, but the model was tuned on pairs", None),
        ("qa/predict", {"input": "a"}, 422, "input 1: expected an object with question and context", None),
        ("qa/predict", {"input": {"question": "a", "kontext": "b"}}, 422, "unknown field 'kontext'. Did", None),
        ("qa/predict", {"input": {"question": "a", "context": ""}}, 422, "the context of input 1 is empty", None),
        ("qa/predict", {"input": ["a", "b"], "options": {"n_best": True}}, 422, "n_best: expected", "options.n_best"),
        ("choose/predict", {"input": {"context": "a", "endings": "bcd"}}, 422, "endings as a list", None),
        ("choose/predict", {"input": {"context": "a", "endings": ["b"]}}, 422, "a context and 3 endings", None),
        ("choose/predict", {"input": {"context": "a", "endings": ["b"] * 33}}, 413, "at most 32 (endings)", None),
        ("heads/fill", {"text": "a"}, 422, "no [MASK] in 'a'", None),
        ("heads/fill", {"text": "[MASK] " * 65}, 413, "65; this service takes at most 64", None),
        ("heads/fill", {"text": "[MASK] " + "a " * 60}, 413, "at most 41 (positions of the model)", None),
        ("heads/fill", {"text": "[MASK]", "top_k": 0}, 422, "top_k: Input should be greater than", "top_k"),
        ("heads/next", {"a": "x"}, 422, "b is missing", "b"),
        ("heads/next", {"a": "x", "b": " "}, 422, "an empty sentence", None),
        ("encoder/inside", {"text": "a " * 63}, 413, "at most 64 (tokens)", None),
        ("encoder/inside", {"text": "a", "layers": [3]}, 422, "layers 1 to 2", None),
        ("encoder/masking", {"text": ""}, 422, "an empty text", None),
        ("encoder/masking", {"text": "a", "seed": -1}, 422, "seed: ", "seed"),
    ],
)
def test_refusals(client: TestClient, path: str, body: object, status: int, message: str, param: str | None) -> None:
    response = client.post(f"/v1/models/{path}", json=body)
    error = response.json()["error"]
    assert response.status_code == status, error
    assert message in error["message"]
    assert error["param"] == param
    assert error["type"] == {404: "not_found", 413: "too_large", 422: "invalid_request"}[status]


def test_refused_vectors(client: TestClient) -> None:
    for body, message in (
        ({"model": "encoder", "input": [[1, 2]]}, "input: expected a text or a list of texts"),
        ({"model": "encoder", "input": [1, 2]}, "input: expected a text or a list of texts"),
        ({"model": "encoder", "input": []}, "no texts"),
        ({"model": "encoder", "input": "a", "dimensions": 7}, "this model has 20 and no others"),
        ({"model": "encoder", "input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a"}, "model is missing"),
    ):
        response = client.post("/v1/embeddings", json=body)
        assert response.status_code == 422
        assert message in response.json()["error"]["message"]


def test_bodies_that_are_not_what_they_should_be(client: TestClient) -> None:
    path, headers = "/v1/models/classify/predict", {"Content-Type": "application/json"}
    cases = [
        (b'{"input": "a', headers, "not valid JSON from character"),
        (b"[1, 2]", headers, "expected a JSON object"),
        (b'{"input": "a"}', {"Content-Type": "text/plain"}, "with Content-Type: application/json"),
        (b'{"input": ' + b"[" * 3000 + b"]" * 3000 + b"}", headers, ""),
        (b"\xff\xfe", headers, ""),
        (b'{"input": "\xff"}', headers, "expected JSON in UTF-8"),
    ]
    for content, given, message in cases:
        response = client.post(path, content=content, headers=given)
        assert response.status_code in (400, 422), content[:40]
        assert message in response.json()["error"]["message"] or message in response.text
    assert client.get(path).status_code == 405
    assert client.get("/v2").json()["error"]["type"] == "not_found"


def test_refusals_in_korean(client: TestClient) -> None:
    for headers, words in (({"Accept-Language": "ko-KR,ko;q=0.9"}, "목록인 inputs나"), ({}, "expected either")):
        response = client.post("/v1/models/classify/predict", json={}, headers=headers)
        assert response.json()["error"]["message"].startswith(words)
    error = client.post("/v1/models/x/predict", json={}, headers={"Accept-Language": "ko"}).json()["error"]
    assert error["message"].startswith("모델 'x' 이(가) 없습니다.")


def test_forms_that_are_refused_in_korean(client: TestClient) -> None:
    for path, body, words in (
        ("models/heads/fill", {"text": "[MASK]", "top_k": 0}, "top_k: 1 이상이어야 합니다"),
        ("models/heads/fill", {"text": "[MASK]", "top_k": 101}, "top_k: 100 이하여야 합니다"),
        ("models/heads/fill", {"text": "[MASK]", "top_k": "a"}, "top_k: 정수여야 합니다"),
        ("models/heads/fill", {"text": "[MASK]", "top_k": 1.5}, "top_k: 소수점이 없는 정수여야 합니다"),
        ("models/heads/fill", {"text": 3}, "text: 문자열이어야 합니다"),
        ("models/classify/predict", {"inputs": "a"}, "inputs: 목록이어야 합니다"),
        ("models/classify/predict", {"input": "a", "options": 3}, "options: 객체여야 합니다"),
        (
            "models/classify/predict",
            {"input": "a", "options": {"b": 3}},
            "알 수 없는 옵션 'b'. classify 에는 옵션이 없",
        ),
        ("models/qa/predict", {"input": "a", "options": {"b": 3}}, "알 수 없는 옵션 'b'. qa 의 옵션: n_best"),
        ("embeddings", {"model": "encoder", "input": 3}, "input: 텍스트 하나나 텍스트 목록이어야 합니다"),
        ("embeddings", {"model": "encoder", "input": "a", "encoding_format": "x"}, "encoding_format: 'float' 또는"),
    ):
        response = client.post(f"/v1/{path}", json=body, headers={"Accept-Language": "ko"})
        assert response.json()["error"]["message"].startswith(words), response.text


def test_documentation_needs_no_other_host(client: TestClient) -> None:
    page = client.get("/docs")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    parts = {name: client.get(f"/docs/{name}") for name in ("docs.js", "docs.css")}
    assert all(part.status_code == 200 for part in parts.values())
    assert parts["docs.js"].headers["Content-Type"].startswith("text/javascript")
    assert "//" not in page.text + parts["docs.css"].text
    assert "http" not in parts["docs.js"].text
    assert client.get("/docs/../app.py").status_code == 404
    api = client.get("/openapi.json").json()
    told = {(path, method) for path, methods in api["paths"].items() for method in methods}
    assert ("/v1/models/{name}/predict", "post") in told
    assert {path for path, _ in told} >= {"/v1/embeddings", "/health", "/ready", "/metrics", "/v1/models"}
    refused = api["paths"]["/v1/embeddings"]["post"]["responses"]["429"]
    assert refused["content"]["application/json"]["schema"]["$ref"].endswith("ErrorAnswer")


def test_the_page(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert client.get("/page/main.js").headers["Content-Type"].startswith("text/javascript")
    assert client.get("/page/../serve.py").status_code == client.get("/page/none.js").status_code == 404
