"""Runtimes of other makers report nothing: they leave no identifiers behind, and their reporters are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

# Continuous integration is left alone by openvino anyway; here it is to take this for a user's machine.
_CI = ("CI", "TF_BUILD", "JENKINS_URL", "ORT_DISABLE_TELEMETRY")
_PROGRAM = """
import sys
from bertsmith.serving import runtimes

runtimes.onnxruntime().get_device()
openvino = runtimes.openvino()
openvino.Core()
assert runtimes.openvino() is openvino
from openvino.tools.ovc import convert_impl, telemetry_utils

assert telemetry_utils.tm.__name__ == convert_impl.tm.__name__ == "openvino.tools.ovc.telemetry_stub"
assert "openvino_telemetry" not in sys.modules
"""


def test_nothing_is_reported(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in _CI}
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR"):
        environment[name] = str(tmp_path)
    subprocess.run([sys.executable, "-c", _PROGRAM], env=environment, check=True, timeout=120)
    assert list(tmp_path.rglob("*")) == []


_FORGOTTEN = """
import signal
import sys
import threading
from pathlib import Path

import numpy as np
from bertsmith.serving import graphs, runtimes

openvino = runtimes.openvino()
given = openvino.opset13.parameter([1, 3], np.float32, name="values")
openvino.save_model(openvino.Model([openvino.opset13.relu(given)], [given]), sys.argv[1])
held = [graphs._openvino(Path(sys.argv[1]), 1)]
other = threading.Thread(target=held.clear)
other.start()
other.join()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_signal_after_another_thread_let_a_model_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FORGOTTEN, str(tmp_path / "model.xml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "interrupted"), done.stderr


def test_a_reporter_that_is_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from bertsmith.serving import runtimes

    monkeypatch.setitem(sys.modules, "openvino_telemetry", os)
    assert runtimes.openvino().__name__ == "openvino"
    assert sys.modules["openvino_telemetry"] is os
