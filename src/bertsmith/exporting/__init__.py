"""Models as graphs for other runtimes: ONNX, OpenVINO; and as directories of sentence-transformers."""
