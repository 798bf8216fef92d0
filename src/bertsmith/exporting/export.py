"""``bertsmith export``: a model to a directory that runs without torch, after a comparison with the original."""

from __future__ import annotations

import platform
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bertsmith import files
from bertsmith.catalogue.translate import translated
from bertsmith.console import Log, human, justified
from bertsmith.errors import InputError
from bertsmith.export_config import ExportSettings
from bertsmith.exporting.checking import (
    Difference,
    Material,
    Metric,
    Speed,
    compare,
    feeds_of,
    inputs_of,
    material_of,
    metric_of,
    outputs_of,
    plain,
    speeds_of,
)
from bertsmith.exporting.onnx_graph import quantize_in_blocks, quantize_with_scales, require_export, write_onnx
from bertsmith.exporting.openvino_graph import write_openvino
from bertsmith.exporting.sentence_layout import write_sentence_model
from bertsmith.exporting.subject import Subject, load_subject
from bertsmith.features.encoder import Encoder
from bertsmith.model.inference import fix_weights
from bertsmith.model.weights import CONFIG
from bertsmith.serving.backends import weights_checksum
from bertsmith.serving.graphs import INPUTS, ONNX_FILE, OPENVINO_FILE, REPORT, Runtime, open_graph, require
from bertsmith.tasks.scores import spoken
from bertsmith.tasks.task import Outputs
from bertsmith.training.device import set_up_process

_PACKAGES = ("bertsmith", "torch", "onnx", "onnxscript", "onnxruntime", "openvino", "tokenizers", "numpy")
_FAR = 1e-3
"""A difference of float32 outputs beyond this is no rounding."""


@dataclass(frozen=True)
class ExportResult:
    """What was written, and how it compares.

    Attributes:
        output: the directory.
        difference: of its outputs from the original's.
        metric: both scores; None without labelled rows.
        speeds: by name: torch, the runtime, and for int8 its float32 graph.
    """

    output: Path
    difference: Difference
    metric: Metric | None
    speeds: dict[str, Speed]


def export(settings: ExportSettings, log: Log | None = None) -> ExportResult:
    """Write a model for another runtime, and say how it compares with the original.

    The directory appears when it is whole, with ``export.json``: inputs, differences, scores, speeds, versions.

    Raises:
        InputError: the model or a setting cannot be used, the output exists, a package is missing, the export gives
            other answers than the model, or 8-bit integers cost too much or bring nothing.
    """
    log = log or Log(settings.quiet)
    _check_settings(settings)
    threads = set_up_process(settings.threads)
    subject = load_subject(settings)
    if settings.int8 and subject.recipe is None and settings.check is None and not settings.force:
        raise InputError("--int8 needs labelled rows to see what it costs: --check FILE (or --force goes without)")
    material = material_of(settings, subject)
    config = subject.info.config
    log.say(f"exporting {subject.directory}: {subject.task.name}, {config.num_hidden_layers} layers")
    with torch.inference_mode():
        original = outputs_of(subject.model, subject, material)
    if settings.format == "sentence-transformers":
        return _sentence_model(settings, subject, material, original, log)
    with files.new_directory(settings.output) as directory:
        found = _graph(settings, subject, material, original, directory, threads, log)
        _report(settings, subject, material, found, directory, threads)
    path = settings.output / (ONNX_FILE if settings.format == "onnx" else OPENVINO_FILE)
    size = sum(file.stat().st_size for file in settings.output.glob("model.*"))
    log.say(f"{path} ({human(size)}B), with tokenizer, {CONFIG} and {REPORT}")
    log.say(f"next: bertsmith predict {settings.output} --input FILE -o predictions.jsonl")
    return found


def _check_settings(settings: ExportSettings) -> None:
    output, kind = settings.output, settings.format
    if output.exists() and not output.is_dir():
        raise InputError("is a file; expected a directory or a new name", path=output)
    if output.is_dir() and any(output.iterdir()):
        ours = (output / REPORT).is_file()
        if not ours:
            raise InputError("holds other files; choose a new directory", path=output)
        if not settings.overwrite:
            raise InputError("holds an export; choose another output, or give --overwrite to replace it", path=output)
    if kind == "sentence-transformers":
        for option, given in (("--int8", settings.int8), ("--calibrate", settings.calibrate)):
            if given:
                raise InputError(f"{option} is for graphs; sentence-transformers gets the weights as they are")
        return
    require_export()
    if kind == "openvino":
        require("openvino")
    if settings.calibrate is not None and not settings.int8:
        raise InputError("--calibrate finds scales for --int8, which is not given")
    if settings.int8 and kind == "openvino" and settings.calibrate is None:
        raise InputError("--int8 for openvino needs rows to find scales with: --calibrate FILE (a few hundred texts)")


def _graph(
    settings: ExportSettings,
    subject: Subject,
    material: Material,
    original: Outputs,
    directory: Path,
    threads: int,
    log: Log,
) -> ExportResult:
    """Write a graph with what belongs to it into a directory, and compare it.

    Raises:
        InputError: it is not good enough.
    """
    runtime: Runtime = "openvino" if settings.format == "openvino" else "onnx"
    with tempfile.TemporaryDirectory() as name:
        plain_path, final = Path(name) / ONNX_FILE, Path(name) / f"final-{ONNX_FILE}"
        log.say("tracing the model")
        write_onnx(subject.padded(), plain_path, subject.output_name)
        # From here on the model is only used, as a predictor uses it: speeds are compared with that.
        fix_weights(subject.bert, torch.float32)
        models = {"torch": subject.model, f"{runtime} float32": open_graph(plain_path, runtime, threads)}
        if settings.int8:
            log.say("making integers of it")
            _quantize(settings, subject, plain_path, final)
        source = final if settings.int8 else plain_path
        if runtime == "openvino":
            write_openvino(source, directory / OPENVINO_FILE)
        else:
            shutil.copyfile(source, directory / ONNX_FILE)
    name = f"{runtime} int8" if settings.int8 else f"{runtime} float32"
    models[name] = open_graph(directory / (ONNX_FILE if runtime == "onnx" else OPENVINO_FILE), runtime, threads)
    outputs = outputs_of(models[name], subject, material)
    difference = compare(subject, material, original, outputs)
    metric = metric_of(subject, material, original, outputs, difference)
    speeds = speeds_of(models, material.examples)
    found = ExportResult(settings.output, difference, metric, speeds)
    print(_table(found, material, name))
    _judge(settings, found, name)
    subject.tokenizer.save(directory)
    files.write_json(directory / CONFIG, subject.configuration())
    return found


def _quantize(settings: ExportSettings, subject: Subject, path: Path, target: Path) -> None:
    if settings.calibrate is None:
        quantize_in_blocks(path, target)
        return
    inputs = inputs_of(settings, subject, settings.calibrate)
    rows = subject.task.rows(list(enumerate(inputs, start=1)), subject.facts)
    quantize_with_scales(path, target, feeds_of(subject.task.encode(rows, subject.facts, subject.tokenizer)))


def _judge(settings: ExportSettings, found: ExportResult, name: str) -> None:
    """Refuse an export that is not what was asked for.

    Raises:
        InputError: float32 outputs differ by more than rounding; or int8 lost more than the tolerance or no time.
    """
    if not settings.int8:
        if found.difference.largest > _FAR and not settings.force:
            raise InputError(
                f"the graph's outputs differ by up to {found.difference.largest:.2g} from the model's, which is no "
                "rounding: it was not written (--force writes it)"
            )
        return
    if settings.force:
        return
    metric = found.metric
    if metric is not None and metric.lost > settings.tolerance:
        finer = settings.calibrate is not None and settings.format == "onnx"
        hint = "Without --calibrate it is more exact; --force takes it" if finer else "--force takes it"
        raise InputError(
            f"with 8-bit integers {spoken(metric.name)} falls by {metric.lost:.2f} points, more than --tolerance "
            f"{settings.tolerance:g}: it was not written. {hint}"
        )
    before, after = found.speeds[name.replace("int8", "float32")].tokens, found.speeds[name].tokens
    if after <= before:
        raise InputError(
            f"with 8-bit integers it is not faster on this machine ({human(after)} tokens/s, {human(before)} in "
            "float32): it was not written (--force writes it)"
        )


def _table(found: ExportResult, material: Material, name: str) -> str:
    """Return the comparison as text."""
    difference, metric = found.difference, found.metric
    largest = [f"{difference.largest:.2e} of an output"]
    if difference.largest_share is not None:
        largest.append(f"{difference.largest_share:.2e} of a probability")
    rows = [("largest difference", ", ".join(largest))]
    if difference.same is not None:
        rows.append(("same answers", f"{difference.same:.2%}"))
    if difference.cosine is not None:
        rows.append(("mean cosine", f"{difference.cosine:.6f}"))
    lines = [translated(f"compared on {len(material.examples.lengths):,} sequences: {material.where}")]
    lines += [f"  {justified(translated(what), 20)}{translated(figure)}" for what, figure in rows]
    heads = [justified(translated("tokens/s"), 10, right=True), justified(translated("one row, ms"), 13, right=True)]
    if metric:
        heads.append(justified(translated(spoken(metric.name)), 14, right=True))
    lines.append(" " * 20 + "".join(heads))
    for model, speed in found.speeds.items():
        line = f"  {model:<18}{human(speed.tokens):>10}{speed.alone:>13.2f}"
        if metric and model in ("torch", name):
            line += f"{metric.original if model == 'torch' else metric.export:>14.4f}"
        lines.append(line)
    return "\n".join(lines)


def _report(
    settings: ExportSettings,
    subject: Subject,
    material: Material,
    found: ExportResult,
    directory: Path,
    threads: int,
) -> None:
    """Write export.json."""
    int8 = ("scales" if settings.calibrate else "blocks") if settings.int8 else ""
    values: dict[str, Any] = {
        "format": settings.format,
        "task": subject.task.name,
        "int8": int8,
        "inputs": list(INPUTS),
        "output": subject.output_name,
        "model": str(settings.model),
        "weights": weights_checksum(subject.directory),
        "compared_on": {"what": material.where, "sequences": len(material.examples.lengths)},
        "difference": plain(found.difference),
        "speed": {name: plain(speed) for name, speed in found.speeds.items()} | {"threads": threads},
        "bytes": {path.name: path.stat().st_size for path in sorted(directory.glob("model.*"))},
        "versions": {"python": platform.python_version()} | _versions(),
    }
    if found.metric is not None:
        values["score"] = plain(found.metric)
    files.write_json(directory / REPORT, values)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _sentence_model(
    settings: ExportSettings, subject: Subject, material: Material, original: Outputs, log: Log
) -> ExportResult:
    """Write a directory of sentence-transformers, and read it again.

    Raises:
        InputError: it gives other vectors.
    """
    with files.new_directory(settings.output) as directory:
        write_sentence_model(subject, directory)
        again = Encoder.load(directory, device="cpu", threads=torch.get_num_threads())
        outputs = list(again.encode(material.rows.texts))
        difference = compare(subject, material, original, outputs)
        found = ExportResult(settings.output, difference, None, {})
        _judge(settings, found, "")
        files.write_json(
            directory / REPORT,
            {
                "format": settings.format,
                "model": str(settings.model),
                "weights": weights_checksum(subject.directory),
                "compared_on": {"what": material.where, "sequences": len(outputs)},
                "difference": plain(difference),
                "versions": _versions(),
            },
        )
    pooling: str = again.recipe.pooling
    how = f"{pooling}, scaled to length 1" if again.recipe.normalize else pooling
    log.say(f"{settings.output}: an encoder for sentence-transformers, {how}")
    log.say(f'next, in Python: sentence_transformers.SentenceTransformer("{settings.output}")')
    return found
