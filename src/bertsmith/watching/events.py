"""metrics.jsonl as TensorBoard's event files, written from a thread beside the run."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertsmith.console import Log
from bertsmith.watching.log import METRICS, GrowingLog

DIRECTORY = "tensorboard"
_EVERY_SECONDS = 2.0
_NO_CURVES = ("step", "kind", "seed", "seconds")


@contextmanager
def event_files(run: Path, log: Log) -> Iterator[None]:
    """Keep RUN/tensorboard equal to RUN/metrics.jsonl while the block runs, and complete when it ends.

    When the log is replaced, as after a resume, the event files are written anew: no step stands in them twice. What
    goes wrong is said once and does not stop the run.
    """
    writer, ended = EventFiles(run), threading.Event()

    def follow() -> None:
        try:
            while not ended.wait(_EVERY_SECONDS):
                writer.update()
            writer.update()
        except Exception as error:
            log.warn(f"TensorBoard's files could not be written: {error}; the run goes on without them")
        finally:
            writer.close()

    thread = threading.Thread(target=follow, name="tensorboard")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class EventFiles:
    """The event files of a run: one folder, or one a seed in fine-tuning.

    Args:
        run: its directory; event files that stand there are of an earlier session and are written anew.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._log = GrowingLog(run / METRICS)
        self._generation, self._offset = "", 0
        self._writers: dict[str, Any] = {}
        self._seconds = 0.0

    def update(self) -> None:
        """Write what came since the last call."""
        while True:
            piece = self._log.read(self._generation, self._offset)
            if piece.is_new:
                self._start_over()
            self._generation, self._offset = piece.generation, piece.offset
            for entry in piece.entries:
                self._write(entry)
            if not piece.has_more:
                break
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Finish the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
        self._log.close()

    def _start_over(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
        self._seconds = 0.0
        shutil.rmtree(self._run / DIRECTORY, ignore_errors=True)

    def _write(self, entry: dict[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._seconds = float(entry.get("seconds") or self._seconds)
        kind = str(entry.get("kind", "train"))
        values = [
            Summary.Value(tag=f"{kind}/{name}", simple_value=value)
            for name, value in entry.items()
            if name not in _NO_CURVES and isinstance(value, int | float) and not isinstance(value, bool)
        ]
        event = Event(step=entry["step"], wall_time=self._began() + self._seconds, summary=Summary(value=values))
        self._writer("" if "seed" not in entry else f"seed-{entry['seed']}").add_event(event)

    def _began(self) -> float:
        # A log holds seconds of work; TensorBoard wants moments.
        return (self._run / "config.yaml").stat().st_mtime

    def _writer(self, name: str) -> Any:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if name not in self._writers:
            self._writers[name] = EventFileWriter(str(self._run / DIRECTORY / name))
        return self._writers[name]
