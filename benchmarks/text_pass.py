"""One text turned into ids once, in a process of its own: what text.py measures.

python benchmarks/text_pass.py prepare TEXT VOCABULARY PROCESSES STORE
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LINES_A_CALL = 10_000


@dataclass(frozen=True)
class Pass:
    """A text turned into ids once.

    Attributes:
        seconds: on the clock.
        cpu_seconds: of all processes together.
        characters: of the text that was read, white space left out.
        tokens: ids made.
        digest: SHA-256 of all ids in their order.
    """

    seconds: float
    cpu_seconds: float
    characters: int
    tokens: int
    digest: str


def in_new_process(side: str, text: Path, vocabulary: Path, processes: int, store: Path) -> Pass:
    """Run "prepare" or "encode_batch_fast" with so many worker processes or threads.

    Raises:
        CalledProcessError: it failed.
    """
    arguments = [side, str(text), str(vocabulary), str(processes), str(store)]
    parallel = {"RAYON_NUM_THREADS": str(processes), "TOKENIZERS_PARALLELISM": "true" if processes > 1 else "false"}
    command = [sys.executable, __file__, *arguments]
    result = subprocess.run(command, env=os.environ | parallel, stdout=subprocess.PIPE, check=True)
    return Pass(**json.loads(result.stdout))


# Imports stand inside: worker processes of `prepare` import this file again.
def main() -> None:
    import numpy as np

    side, text, vocabulary, processes, store = sys.argv[1:]
    run = {"prepare": prepare_ids, "encode_batch_fast": encode_batch_ids}[side]
    seconds, cpu, ids = run(Path(text), Path(vocabulary), int(processes), Path(store))
    digest = hashlib.sha256(np.ascontiguousarray(ids, dtype=np.uint32)).hexdigest()
    characters = len("".join(Path(text).read_text(encoding="utf-8").split()))
    print(json.dumps(asdict(Pass(seconds, cpu, characters, len(ids), digest))))


def prepare_ids(path: Path, vocabulary: Path, processes: int, output: Path) -> tuple[float, float, Any]:
    """Run the stage `prepare` on a file; return seconds, CPU seconds and ids. The store is removed again."""
    import numpy as np

    from bertsmith.config import PrepareSettings
    from bertsmith.console import Log
    from bertsmith.text.prepare import prepare
    from bertsmith.text.shards import read_shard

    cpu, begun = cpu_seconds(), time.perf_counter()
    settings = PrepareSettings(corpus=[path], vocab=vocabulary, output=output, workers=processes)
    prepare(settings, Log(quiet=True)).close()
    seconds, cpu = time.perf_counter() - begun, cpu_seconds() - cpu
    ids = np.concatenate([read_shard(shard).token_ids for shard in sorted(output.glob("shard-*.arrow"))])
    shutil.rmtree(output)
    return seconds, cpu, ids


def encode_batch_ids(path: Path, vocabulary: Path, processes: int, output: Path) -> tuple[float, float, Any]:
    """Let `tokenizers` encode the lines of a file; return seconds, CPU seconds and ids."""
    import numpy as np
    from tokenizers import Tokenizer

    cpu, begun = cpu_seconds(), time.perf_counter()
    backend = Tokenizer.from_file(str(vocabulary / "tokenizer.json"))
    # As in `prepare`: what looks like a special token in the text is text.
    backend.encode_special_tokens = True
    parts = []
    with path.open(encoding="utf-8") as file:
        while lines := [line.rstrip("\n") for line in itertools.islice(file, LINES_A_CALL)]:
            encoded = backend.encode_batch_fast(lines, add_special_tokens=False)
            parts.append(np.fromiter(itertools.chain.from_iterable(e.ids for e in encoded), dtype=np.uint32))
    ids = np.concatenate(parts)
    return time.perf_counter() - begun, cpu_seconds() - cpu, ids


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it started and that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
