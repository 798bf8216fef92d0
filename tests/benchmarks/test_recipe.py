"""The benchmark of what is learned in the same time: both sides run, and are judged alike."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bertsmith.config import PretrainSettings
from bertsmith.text.store import TokenStore


def test_both_sides_and_the_picture(store: TokenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from recipe import Point, draw, ours, print_table, usual_loop

    numbers = {"store": store.path, "output": tmp_path / "run", "layers": 1, "hidden_size": 20, "heads": 2}
    numbers |= {
        "max_positions": 48,
        "max_length": 33,
        "budget": 4,
        "eval_instances": 11,
        "held_out": 0.1,
        "quiet": True,
    }
    settings = PretrainSettings.parse(numbers | {"precision": "float32", "threads": 1})
    curves = {"transformers": usual_loop(settings, 3), "bertsmith": ours(settings, 3)}
    assert len(curves["transformers"]) == 3
    assert [p.seconds for p in curves["transformers"]] == pytest.approx([4 / 3, 8 / 3, 4], rel=0.2)
    for points in curves.values():
        assert [p.tokens for p in points] == sorted(p.tokens for p in points)
        assert all(1 < p.mlm_loss < 6 for p in points)
    print_table(curves)
    assert "the usual loop's last loss" in capsys.readouterr().out
    draw({"bertsmith": [Point(1.0, 5, 3.0, 0.5)], **curves}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_seconds_of_a_machine_of_given_speed(store: TokenStore, tmp_path: Path) -> None:
    from recipe import ours, usual_loop

    numbers = {"store": store.path, "layers": 1, "hidden_size": 20, "heads": 2, "max_positions": 48, "max_length": 33}
    numbers |= {"budget": 2, "eval_instances": 11, "held_out": 0.1, "quiet": True, "threads": 1, "batch_size": 3}
    settings = PretrainSettings.parse(numbers | {"precision": "float32", "output": tmp_path / "run"})
    for points in (ours(settings, 2, rate=900), usual_loop(settings, 2, rate=900)):
        assert points[-1].seconds == pytest.approx(2, rel=0.5)
        assert [p.seconds for p in points] == pytest.approx([p.tokens / 900 for p in points])


def test_their_weights_are_read_as_ours() -> None:
    from recipe import score
    from steps import their_model

    from bertsmith.batch import pack
    from bertsmith.config import ModelConfig
    from bertsmith.model.heads import PretrainingModel

    numbers = {"vocab_size": 60, "num_hidden_layers": 1, "hidden_size": 20, "num_attention_heads": 2}
    config = ModelConfig.parse(numbers | {"intermediate_size": 17, "max_position_embeddings": 30})
    torch.manual_seed(1)
    model = their_model(config)
    reader = PretrainingModel(config)
    plain = pack([torch.arange(5, 25).numpy()], labels=[1])
    batch = replace(plain, masked_positions=torch.tensor([3, 9]), masked_labels=torch.tensor([7, 8]))

    class Counts:
        token_counts = torch.ones(60).numpy()

    loss, _ = score(model, reader, [batch], Counts())  # type: ignore[arg-type]
    with torch.no_grad():
        output = model.eval()(input_ids=batch.token_ids[None], token_type_ids=batch.segment_ids[None])
    expected = torch.nn.functional.cross_entropy(output.prediction_logits[0, [3, 9]], torch.tensor([7, 8]))
    assert loss == pytest.approx(float(expected), rel=1e-4)
