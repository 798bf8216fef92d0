"""Writing ONNX graphs: float32, and 8-bit integers in two ways."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bertsmith.errors import InputError
from bertsmith.exporting.padded import PaddedModel
from bertsmith.serving import runtimes
from bertsmith.serving.graphs import INPUTS

Feed = dict[str, np.ndarray]
"""(n, L) int64 arrays by the names of a graph's inputs."""

_NEEDS = ("onnx", "onnxscript", "onnxruntime")
_BLOCK = 64
_LAYER_OUTPUT = re.compile(r".*layers\.\d+\.output\.bias")


def require_export() -> None:
    """Refuse to go on without what writes graphs.

    Raises:
        InputError: the extra is missing.
    """
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} not installed; install with: pip install 'bertsmith[export]'")


def write_onnx(model: PaddedModel, path: Path, output: str) -> None:
    """Write a model as one file with free numbers and lengths of sequences; the same model gives the same bytes.

    Args:
        model: in evaluation mode, on the CPU.
        path: the file.
        output: what its output is called.
    """
    import onnx

    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, 5:] = 0
    example = (torch.ones_like(mask), mask, torch.zeros_like(mask))
    free = {0: torch.export.Dim("sequences"), 1: torch.export.Dim("length")}
    with _quietly():
        torch.onnx.export(
            model,
            example,
            path,
            input_names=list(INPUTS),
            output_names=[output],
            dynamic_shapes=dict.fromkeys(INPUTS, free),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    graph = onnx.load(str(path))
    _forget_origins(graph)
    onnx.save_model(graph, str(path))


def _forget_origins(graph: Any) -> None:
    """Remove notes on where in which source file a node is from: they differ between machines."""
    del graph.metadata_props[:]
    parts = (graph.graph.node, graph.graph.input, graph.graph.output, graph.graph.value_info, graph.graph.initializer)
    for part in parts:
        for thing in part:
            thing.ClearField("metadata_props")
            thing.ClearField("doc_string")
    graph.graph.ClearField("doc_string")
    graph.graph.ClearField("metadata_props")


def quantize_in_blocks(path: Path, target: Path) -> None:
    """Write a graph with 8-bit weights, a scale for every 64 of a column, whose products are made of integers.

    Activations get their scales as they come, per row, so what a text gets does not depend on others. Needs no
    calibration; onnxruntime's own operator, which other runtimes do not have.
    """
    import onnx

    runtimes.onnxruntime()
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with _quietly():
        quantizer = MatMulNBitsQuantizer(
            onnx.load(str(path)), bits=8, block_size=_BLOCK, is_symmetric=True, accuracy_level=4
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(target), False)


def quantize_with_scales(path: Path, target: Path, feeds: Sequence[Feed]) -> None:
    """Write a graph with 8-bit weights and activations, whose scales are fixed from what the feeds make of them.

    A layer's last product stays float32: what goes into it has rare values far above the others, for which one scale is
    too coarse. The operators are ONNX's own, so any runtime can compute them.
    """
    import onnx

    runtimes.onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self.left, None)

    with _quietly():
        quantize_static(
            str(path),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=_last_products(onnx.load(str(path))),
            extra_options={"MatMulConstBOnly": True},
        )


def _last_products(graph: Any) -> list[str]:
    """Return the names of the products whose sum with ``layers.n.output.bias`` ends a layer."""
    sums = [node for node in graph.graph.node if node.op_type == "Add"]
    ends = {name for node in sums if any(map(_LAYER_OUTPUT.fullmatch, node.input)) for name in node.input}
    return [
        node.name
        for node in graph.graph.node
        if node.op_type in ("MatMul", "Gemm") and ends & {*node.input, *node.output}
    ]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporters' remarks on their own workings from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
