"""Writing OpenVINO's own form of a graph."""

from __future__ import annotations

from pathlib import Path

from bertsmith.serving import runtimes


def write_openvino(source: Path, target: Path) -> None:
    """Write an ONNX graph as model.xml with model.bin beside it, in the numbers that it has."""
    openvino = runtimes.openvino()
    openvino.save_model(openvino.convert_model(str(source)), str(target), compress_to_fp16=False)
