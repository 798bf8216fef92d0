"""Labels for texts with onnxruntime, tokenizers and numpy alone: no torch, no Bertsmith.

    bertsmith export tuned --format onnx -o exported        (where Bertsmith is installed)
    python onnx_classify.py exported "first text" "second text"

A text of a model for pairs is written "a<TAB>b". With ORT_DISABLE_TELEMETRY=1 onnxruntime reports nothing to its maker.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

directory, texts = Path(sys.argv[1]), sys.argv[2:]
facts = json.loads((directory / "config.json").read_text(encoding="utf-8"))["bertsmith"]["facts"]
tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
tokenizer.enable_truncation(facts["max_length"])
tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"))
session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])

encoded = tokenizer.encode_batch([tuple(text.split("\t")) if "\t" in text else text for text in texts])
logits = session.run(
    None,
    {
        "input_ids": np.array([e.ids for e in encoded], dtype=np.int64),
        "attention_mask": np.array([e.attention_mask for e in encoded], dtype=np.int64),
        "token_type_ids": np.array([e.type_ids for e in encoded], dtype=np.int64),
    },
)[0]
shares = np.exp(logits - logits.max(1, keepdims=True))
for text, row in zip(texts, shares / shares.sum(1, keepdims=True), strict=True):
    print(f"{facts['labels'][row.argmax()]}\t{row.max():.6f}\t{text}")
