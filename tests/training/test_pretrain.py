"""Whole pre-training runs, small: what they write, that stopping changes nothing, and how they refuse."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bertsmith.config import PretrainSettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.model.weights import load_pretraining_model
from bertsmith.serving.looking import fill
from bertsmith.text.store import TokenStore
from bertsmith.training import checkpoint
from bertsmith.training.checkpoint import last_checkpoint, read_metrics
from bertsmith.training.initial import model_config
from bertsmith.training.pretrain import pretrain
from tests.conftest import tiny_run

transformers = pytest.importorskip("transformers")


LEFT_TO_RIGHT = {"direction": "left-to-right", "next_sentence": False}


def weights_hash(run: Path) -> str:
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def losses(run: Path) -> list[tuple[int, str, float]]:
    return [(e["step"], e["kind"], e["mlm_loss"]) for e in read_metrics(run / "metrics.jsonl")]


def test_a_run_learns_and_leaves_all_that_it_should(run: Path) -> None:
    entries = read_metrics(run / "metrics.jsonl")
    train = [e for e in entries if e["kind"] == "train"]
    held = [e for e in entries if e["kind"] == "eval"]
    assert [e["step"] for e in train] == list(range(1, 41))
    assert [e["step"] for e in held] == [0, *range(5, 41, 5)]
    assert held[0]["mlm_loss"] == pytest.approx(held[0]["unigram_entropy"], abs=0.1)  # the bias knows frequencies
    assert held[-1]["mlm_loss"] < held[0]["unigram_entropy"] - 0.05
    assert all(e["loss"] == pytest.approx(e["mlm_loss"] + e["nsp_loss"]) for e in train)
    assert train[-1]["tokens"] > 40 * 7 * 10
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step-00000036", "step-00000040"]
    assert (run / "best" / "model.safetensors").is_file()
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "unigram entropy" in page
    assert "<svg" in page
    assert 'src="http' not in page
    again = PretrainSettings.from_yaml(run / "config.yaml")
    assert again.steps == 40


def test_transformers_reads_the_model_with_the_same_logits(run: Path, store: TokenStore) -> None:
    theirs = transformers.AutoModelForPreTraining.from_pretrained(run / "model", attn_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "model")
    text = "the cat sees 나는 밥을 먹었다."
    inputs = tokenizer(text, return_tensors="pt")
    assert inputs.input_ids[0].tolist() == store.tokenizer.encode(text).ids
    from bertsmith.batch import pack

    ours = load_pretraining_model(run)
    with torch.no_grad():
        hidden = ours.bert(pack([inputs.input_ids[0].tolist()])).hidden
        logits = ours.mlm(hidden, ours.bert.embeddings.token.weight)
        expected = theirs(**inputs).prediction_logits[0]
    assert torch.allclose(logits, expected, atol=1e-5)


def test_left_to_right_learns_and_fills_no_blanks(store: TokenStore, tmp_path: Path) -> None:
    result = pretrain(tiny_run(store, tmp_path / "run", **LEFT_TO_RIGHT))
    entries = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert result.final.mlm_loss < result.final.unigram_entropy - 0.05
    assert all(e["loss"] == e["mlm_loss"] for e in entries if e["kind"] == "train")
    assert load_pretraining_model(tmp_path / "run").config.is_decoder
    with pytest.raises(InputError, match="left to right"):
        fill(tmp_path / "run", "the [MASK] sees")


@pytest.mark.parametrize("mix", ["80/10", "80/10/20", "80/10/ten", "110/-10/0"])
def test_a_mix_that_is_none(store: TokenStore, tmp_path: Path, mix: str) -> None:
    with pytest.raises(InputError, match=r"80/10/10"):
        tiny_run(store, tmp_path / "run", mask_mix=mix)


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send Ctrl-C to this process when the optimiser has made ``step`` steps."""
    from bertsmith.training import loop

    made = 0
    real = loop.apply_gradients

    def counted(*arguments: object) -> float:
        nonlocal made
        made += 1
        if made == step:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(loop, "apply_gradients", counted)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bfloat16"},
        {"precision": "float16"},
        {"masking": "word", "micro_batch_size": 3},
        LEFT_TO_RIGHT,
    ],
)
def test_stopped_and_resumed_is_the_same_run(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    pretrain(tiny_run(store, tmp_path / "whole", **changes))
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_run(store, tmp_path / "parts", **changes))
    assert not (tmp_path / "parts" / "model").exists()
    pretrain(tiny_run(store, tmp_path / "parts", resume=True, **changes))
    assert weights_hash(tmp_path / "parts") == weights_hash(tmp_path / "whole")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_killed_and_resumed_is_the_same_run(store: TokenStore, tmp_path: Path) -> None:
    settings = tiny_run(store, tmp_path / "whole", steps=60)
    pretrain(settings)
    killed = tiny_run(store, tmp_path / "killed", steps=60)
    killed.write(tmp_path / "settings.yaml")
    code = (
        "from pathlib import Path; from bertsmith import pretrain; from bertsmith.config import PretrainSettings; "
        f"pretrain(PretrainSettings.from_yaml(Path({str(tmp_path / 'settings.yaml')!r})))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not list((tmp_path / "killed" / "checkpoints").glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "model").exists()
    pretrain(tiny_run(store, tmp_path / "killed", steps=60, resume=True))
    assert weights_hash(tmp_path / "killed") == weights_hash(tmp_path / "whole")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_micro_batches_do_not_change_the_run(store: TokenStore, tmp_path: Path) -> None:
    pretrain(tiny_run(store, tmp_path / "one", dropout=0.0))
    pretrain(tiny_run(store, tmp_path / "many", dropout=0.0, micro_batch_size=2))
    for (_, _, a), (_, _, b) in zip(losses(tmp_path / "one"), losses(tmp_path / "many"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize(
    ("bias", "embeddings", "layers", "golden"),
    [
        ("zero", "random", "random", [4.7933, 4.617, 4.4827, 4.4505]),
        ("unigram", "cooccurrence", "random", [3.3972, 3.3803, 3.3745, 3.3704]),
        ("unigram", "cooccurrence", "neighbours", [3.3447, 3.3189, 3.3156, 3.3101]),
    ],
)
def test_the_golden_curve(
    store: TokenStore, tmp_path: Path, bias: str, embeddings: str, layers: str, golden: list[float]
) -> None:
    starts = {"initial_bias": bias, "initial_embeddings": embeddings, "initial_layers": layers}
    pretrain(tiny_run(store, tmp_path / "run", dropout=0.0, **starts))
    curve = [loss for _, kind, loss in losses(tmp_path / "run") if kind == "eval"]
    # Recorded from these very runs; a change here is a change of the training, and needs a reason.
    assert curve == pytest.approx(golden, rel=2e-3)


def test_losses_of_runs_with_other_shares_of_masks_can_be_compared(store: TokenStore, tmp_path: Path) -> None:
    starts = []
    for share in (0.15, 0.4):
        pretrain(tiny_run(store, tmp_path / str(share), steps=2, mask_share=share))
        starts.append(losses(tmp_path / str(share)))
    (untrained, *_), (also_untrained, *_) = starts
    assert untrained[:2] == (0, "eval")
    assert untrained == also_untrained
    assert starts[0][1] != starts[1][1], "they do train on other masks"


def test_without_next_sentence(store: TokenStore, tmp_path: Path) -> None:
    pretrain(tiny_run(store, tmp_path / "run", steps=3, next_sentence=False))
    train = [e for e in read_metrics(tmp_path / "run" / "metrics.jsonl") if e["kind"] == "train"]
    assert all("nsp_loss" not in e and e["loss"] == e["mlm_loss"] for e in train)


def test_a_budget_ends_on_time(store: TokenStore, tmp_path: Path) -> None:
    begun = time.monotonic()
    result = pretrain(tiny_run(store, tmp_path / "run", steps=None, budget="6s", max_epochs=1e6))
    assert time.monotonic() - begun < 12
    assert result.steps > 5
    train = [e for e in read_metrics(tmp_path / "run" / "metrics.jsonl") if e["kind"] == "train"]
    assert train[-1]["learning_rate"] < 0.2 * 3e-3


def test_a_budget_ends_with_the_text(store: TokenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = pretrain(tiny_run(store, tmp_path / "one", steps=None, epochs=1.5))
    budget = pretrain(tiny_run(store, tmp_path / "budget", steps=None, budget="5m", max_epochs=1.5, quiet=False))
    assert budget.steps == one.steps
    assert "ends after 1.5 passes over the text" in capsys.readouterr().err
    train = [e for e in read_metrics(tmp_path / "budget" / "metrics.jsonl") if e["kind"] == "train"]
    assert train[-1]["learning_rate"] < 0.2 * 3e-3


def test_epochs_count_passes(store: TokenStore, tmp_path: Path) -> None:
    one = pretrain(tiny_run(store, tmp_path / "one", steps=None, epochs=1))
    two = pretrain(tiny_run(store, tmp_path / "two", steps=None, epochs=2))
    assert two.steps == 2 * one.steps


def test_a_run_goes_on_with_what_it_chose(store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_run(store, tmp_path / "run", steps=20, learning_rate=None, precision="auto", warmup=0.5)
    with monkeypatch.context() as patch:
        # Another release may have another rule, another machine another precision.
        patch.setattr("bertsmith.training.pretrain.pick_precision", lambda *arguments: torch.bfloat16)
        patch.setattr("bertsmith.training.pretrain.peak_rate", lambda settings: 7e-4)
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            pretrain(settings)
    pretrain(settings.model_copy(update={"resume": True}))
    entries = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert max(e["learning_rate"] for e in entries if e["kind"] == "train") == 7e-4
    assert PretrainSettings.from_yaml(tmp_path / "run" / "config.yaml").precision == "bfloat16"


def test_another_configuration_in_the_directory(store: TokenStore, run: Path) -> None:
    with pytest.raises(InputError, match=r"learning_rate was 0\.003, now 0\.1"):
        pretrain(tiny_run(store, run, steps=40, learning_rate=0.1, resume=True))
    with pytest.raises(InputError, match="finished run"):
        pretrain(tiny_run(store, run, steps=40, resume=True))


def test_other_files_in_the_directory(store: TokenStore, tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("precious")
    with pytest.raises(InputError, match=r"other files \(thesis\.doc\)"):
        pretrain(tiny_run(store, tmp_path))
    assert (tmp_path / "thesis.doc").read_text() == "precious"


def test_a_stopped_run_is_not_overwritten(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_run(store, tmp_path / "run", quiet=False))
    assert "--resume" in capsys.readouterr().err
    with pytest.raises(InputError, match="--resume"):
        pretrain(tiny_run(store, tmp_path / "run"))


def test_a_full_disk_keeps_the_last_checkpoint(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.save_optimizer

    def full(directory: Path, *arguments: object) -> None:
        if ".step-00000008." in directory.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(directory, *arguments)

    from bertsmith.training import session as module

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_optimizer", full)
        with pytest.raises(InputError, match=r"disk is full.*step 8"):
            pretrain(tiny_run(store, tmp_path / "run"))
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000004"]
    pretrain(tiny_run(store, tmp_path / "run", resume=True))
    pretrain(tiny_run(store, tmp_path / "whole"))
    assert weights_hash(tmp_path / "run") == weights_hash(tmp_path / "whole")


def test_a_checkpoint_cut_short_gives_way_to_the_one_before(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 9)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_run(store, tmp_path / "run"))
    newest, older = sorted((tmp_path / "run" / "checkpoints").iterdir(), reverse=True)
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    assert last_checkpoint(tmp_path / "run", Log()) == older
    assert "model.safetensors" in capsys.readouterr().err
    (older / "state.json").unlink()
    with pytest.raises(InputError, match="every checkpoint is damaged"):
        last_checkpoint(tmp_path / "run", Log())


def test_settings_that_cannot_be(store: TokenStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="how long"):
        pretrain(tiny_run(store, tmp_path / "run", steps=None))
    with pytest.raises(InputError, match="above the model's positions"):
        tiny_run(store, tmp_path / "run", max_length=49)
    with pytest.raises(InputError, match="one of steps, epochs and budget"):
        tiny_run(store, tmp_path / "run", budget="3m")
    with pytest.raises(InputError, match="not a multiple"):
        pretrain(tiny_run(store, tmp_path / "run2", heads=3))
    with pytest.raises(InputError, match="expected a duration"):
        tiny_run(store, tmp_path / "run", steps=None, budget="soon")
    with pytest.raises(InputError, match=r"unknown setting 'learning_rat'\. Did you mean 'learning_rate'"):
        tiny_run(store, tmp_path / "run", learning_rat=1.0)


def test_named_sizes() -> None:
    settings = PretrainSettings(store=Path("s"), output=Path("o"), size="base", steps=1)
    config = model_config(settings, 30522)
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (12, 768, 12)
    assert config.intermediate_size == 3072


def test_metrics_lines_are_json(run: Path) -> None:
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        assert "step" in json.loads(line)
