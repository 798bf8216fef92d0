"""What a directory of sentence-transformers says of itself: its pooling, length limit and normalisation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertsmith import files
from bertsmith.errors import InputError
from bertsmith.features.pooling import Pooling

MODULES = "modules.json"

_MODES: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "max": "max"}
_MODE_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_OTHERWISE = "give --pooling to take the encoder's own vectors without its modules"


@dataclass(frozen=True)
class SentenceModel:
    """What such a directory asks for.

    Attributes:
        pooling: how tokens become a vector; None where the user has chosen that.
        normalize: whether vectors are scaled to length 1.
        max_length: tokens beyond which texts are cut; None if it does not say.
        lowercase: whether text is lower-cased before the tokenizer.
    """

    pooling: Pooling | None
    normalize: bool
    max_length: int | None
    lowercase: bool


def read_sentence_model(
    directory: Path, *, left_to_right: bool = False, pools_otherwise: bool = False
) -> SentenceModel | None:
    """Read modules.json and the files that it names; None where there is no modules.json.

    Args:
        directory: the model's.
        left_to_right: its last token is the one that sums a text up, which is ``cls`` here.
        pools_otherwise: the user has chosen the pooling. Then nothing is refused for modules and prompts: they are left
            out, and the directory's normalisation with them where it is about what another module makes.

    Raises:
        InputError: a file is damaged, or it asks for what is not done here: a module beside Transformer, Pooling and
            Normalize, another kind of pooling, a prompt before each text.
    """
    path = directory / MODULES
    if not path.is_file():
        return None
    modules = _modules(path)
    where = dict(modules)
    names = [name for name, _ in modules]
    order = [name for name in names if name != "Dropout"]
    is_plain = order[:2] == ["Transformer", "Pooling"] and order[2:] in ([], ["Normalize"])
    pooling: Pooling | None = None
    if not pools_otherwise:
        _refuse_modules(names, is_plain, path)
        _refuse_prompts(directory)
        pooling = _pooling(directory / where["Pooling"] / "config.json", left_to_right)
    max_length, lowercase = _limits(directory, where["Transformer"]) if "Transformer" in where else (None, False)
    return SentenceModel(pooling, is_plain and "Normalize" in order, max_length, lowercase)


def _refuse_modules(names: list[str], is_plain: bool, path: Path) -> None:
    unknown = [name for name in names if name not in ("Transformer", "Pooling", "Normalize", "Dropout")]
    if unknown:
        raise InputError(f"has the module {unknown[0]}, which is not supported; {_OTHERWISE}", path=path)
    if not is_plain:
        raise InputError(
            f"has the modules {', '.join(names)}; expected Transformer, Pooling and perhaps Normalize. Or {_OTHERWISE}",
            path=path,
        )


def _modules(path: Path) -> list[tuple[str, str]]:
    """Return each module's class name and folder, in their order."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in values]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"is not a list of modules with type and path: {error!r}", path=path) from None
    return found


def _pooling(path: Path, left_to_right: bool) -> Pooling:
    values = files.read_json(path, what="the configuration of a pooling module")
    given = values.get("pooling_mode", [name for key, name in _MODE_KEYS.items() if values.get(key)] or "mean")
    modes = [given] if isinstance(given, str) else list(given)
    if left_to_right and modes == ["lasttoken"]:
        return "cls"
    if len(modes) != 1 or modes[0] not in _MODES:
        raise InputError(
            f"asks for the pooling {', '.join(map(str, modes))}; supported is one of {', '.join(_MODES)}. "
            f"Or {_OTHERWISE}",
            path=path,
        )
    return _MODES[modes[0]]


def _limits(directory: Path, folder: str) -> tuple[int | None, bool]:
    """Return the length limit and whether text is lower-cased first."""
    path = directory / folder / "sentence_bert_config.json"
    values: dict[str, Any] = {}
    if path.is_file():
        values = files.read_json(path, what="the limits of a sentence-transformers model")
    limit = values.get("max_seq_length")
    tokenizer = directory / folder / "tokenizer_config.json"
    if limit is None and tokenizer.is_file():
        limit = files.read_json(tokenizer, what="the settings of a tokenizer").get("model_max_length")
    if limit is not None and (not isinstance(limit, int | float) or limit < 3):
        raise InputError(f"max_seq_length is {limit!r}; expected a number of tokens, 3 or more", path=path)
    return None if limit is None else int(limit), bool(values.get("do_lower_case", False))


def _refuse_prompts(directory: Path) -> None:
    path = directory / "config_sentence_transformers.json"
    if not path.is_file():
        return
    name = files.read_json(path, what="the settings of a sentence-transformers model").get("default_prompt_name")
    if name:
        raise InputError(f"puts the prompt {name!r} before each text, which is not supported; {_OTHERWISE}", path=path)
