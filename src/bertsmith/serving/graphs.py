"""Exported graphs in the place of models: the same batches in, the same outputs out, computed by another runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from bertsmith import files
from bertsmith.batch import Batch
from bertsmith.errors import InputError
from bertsmith.model.attention import plan_attention
from bertsmith.serving import runtimes

Runtime: TypeAlias = Literal["onnx", "openvino"]
Run: TypeAlias = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""From (n, L) int64 arrays by name to (n, C) or (n, L, C) float32; may be called from several threads."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
ONNX_FILE, OPENVINO_FILE, REPORT = "model.onnx", "model.xml", "export.json"
PACKAGES: dict[Runtime, str] = {"onnx": "onnxruntime", "openvino": "openvino"}
WHERE: dict[Runtime, tuple[str, ...]] = {"onnx": (ONNX_FILE,), "openvino": (OPENVINO_FILE, ONNX_FILE)}
"""Which files a runtime reads, the better one first."""


@dataclass(frozen=True)
class Graph:
    """A directory that ``bertsmith export`` wrote.

    Attributes:
        directory: with the graph, its report, the tokenizer and config.json.
        weights: the checksum of the weights that it was made from.
        int8: "" for float32; "blocks" or "scales": how its weights and activations became integers.
    """

    directory: Path
    weights: str
    int8: str

    def file_for(self, runtime: Runtime) -> Path | None:
        """Return the file that a runtime can read, or None. Integers in blocks are known to onnxruntime only."""
        if runtime == "openvino" and self.int8 == "blocks":
            return None
        return next((self.directory / name for name in WHERE[runtime] if (self.directory / name).is_file()), None)


def read_graph(directory: Path) -> Graph | None:
    """Return what a directory says of its graph; None if it holds none.

    Raises:
        InputError: its report is damaged.
    """
    if not (directory / REPORT).is_file() or not any((directory / n).is_file() for n in (ONNX_FILE, OPENVINO_FILE)):
        return None
    about = files.read_json(directory / REPORT, what="the report of an export")
    try:
        return Graph(directory, str(about["weights"]), str(about["int8"]))
    except KeyError as error:
        raise InputError(f"has no {error}; export the model again", path=directory / REPORT) from None


def is_installed(runtime: Runtime) -> bool:
    """Return whether a runtime's package is there."""
    return find_spec(PACKAGES[runtime]) is not None


def require(runtime: Runtime) -> None:
    """Refuse to go on without a runtime.

    Raises:
        InputError: its package is missing.
    """
    if not is_installed(runtime):
        raise InputError(f"{PACKAGES[runtime]} is not installed; install it with: pip install 'bertsmith[export]'")


class GraphModel(nn.Module):
    """A graph with a model's manners: ``model(batch)`` gives what the torch model would give.

    A batch goes through in rectangles of sequences of similar length, so little is padded, and padding changes nothing.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def forward(self, batch: Batch) -> Tensor:
        """Return (N, C) of sequences or (T, C) of tokens, as the graph has it; float32."""
        starts = batch.sequence_starts
        layout = plan_attention(starts, starts.device).rectangles
        sizes = [bucket.sequences * bucket.length for bucket in layout.buckets]
        outputs, numbers = [], []
        for bucket, index in zip(layout.buckets, torch.split(layout.index, sizes), strict=True):
            cells = index.view(bucket.sequences, bucket.length)
            mask = torch.ones_like(cells) if bucket.key_mask is None else bucket.key_mask[:, 0, 0].long()
            values = (batch.token_ids[cells], mask, batch.segment_ids[cells])
            output = self.run({name: value.numpy() for name, value in zip(INPUTS, values, strict=True)})
            outputs.append(torch.from_numpy(output))
            numbers.append(torch.searchsorted(starts, cells[:, 0].contiguous(), right=True) - 1)
        if outputs[0].ndim == 3:
            return torch.cat([output.flatten(0, 1) for output in outputs]).index_select(0, layout.unpack)
        return torch.cat(outputs).index_select(0, torch.cat(numbers).argsort())


def open_graph(path: Path, runtime: Runtime, threads: int) -> GraphModel:
    """Load a graph.

    Args:
        path: model.onnx or model.xml.
        runtime: what is to compute it.
        threads: CPU threads.

    Raises:
        InputError: the runtime is not installed, or cannot read the file.
    """
    require(runtime)
    try:
        return GraphModel(_onnxruntime(path, threads) if runtime == "onnx" else _openvino(path, threads))
    except Exception as error:  # both libraries have exceptions of their own for every kind of damage
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(f"{PACKAGES[runtime]} cannot read this graph: {reason}", path=path) from None


def _onnxruntime(path: Path, threads: int) -> Run:
    onnxruntime = runtimes.onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # A graph that never looks at an input (one text has no segments) has lost it.
    taken = [given.name for given in session.get_inputs()]

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        output: np.ndarray = session.run(None, {name: inputs[name] for name in taken})[0]
        return output

    return run


def _openvino(path: Path, threads: int) -> Run:
    openvino = runtimes.openvino()
    # Without the hint it takes bfloat16 where the processor has it, and answers change.
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": str(threads),
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = runtimes.openvino_core()
    compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    taken = [given.get_any_name() for given in compiled.inputs]
    # The first array that its binding meets must come from one thread: two threads wait for each other forever.
    _ = openvino.Tensor(np.zeros((1, 1), dtype=np.int64)).data

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        # A request holds its tensors: each call has its own, so that threads do not meet.
        request = compiled.create_infer_request()
        request.infer({name: inputs[name] for name in taken})
        output: np.ndarray = request.get_output_tensor(0).data.copy()
        return output

    return run
