"""Directories of sentence-transformers: an encoder's weights, and modules that say how its vectors are made."""

from __future__ import annotations

from pathlib import Path

from bertsmith import files
from bertsmith.exporting.subject import Subject, VectorModel
from bertsmith.features.sentence_transformers import MODULES
from bertsmith.model.weights import write_model

_FOLDERS = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}


def write_sentence_model(subject: Subject, directory: Path) -> None:
    """Write an encoder into an existing directory as sentence-transformers reads it, and as this project does."""
    assert isinstance(subject.model, VectorModel)
    bert, recipe = subject.model.bert, subject.model.recipe
    write_model(bert, directory, subject.tokenizer)
    modules = list(_FOLDERS)[: 3 if recipe.normalize else 2]
    listed = [
        {"idx": n, "name": str(n), "path": _FOLDERS[name], "type": f"sentence_transformers.models.{name}"}
        for n, name in enumerate(modules)
    ]
    files.write_json(directory / MODULES, listed)
    left_to_right = bert.config.is_decoder
    pooling = {
        "word_embedding_dimension": bert.config.hidden_size,
        "pooling_mode_cls_token": recipe.pooling == "cls" and not left_to_right,
        "pooling_mode_lasttoken": recipe.pooling == "cls" and left_to_right,
        "pooling_mode_mean_tokens": recipe.pooling == "mean",
        "pooling_mode_max_tokens": recipe.pooling == "max",
    }
    files.write_json(directory / _FOLDERS["Pooling"] / "config.json", pooling)
    # The tokenizer lower-cases by itself where it should.
    files.write_json(
        directory / "sentence_bert_config.json", {"max_seq_length": recipe.max_length, "do_lower_case": False}
    )
