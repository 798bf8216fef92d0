"""Text at speed: `prepare` beside encode_batch_fast of `tokenizers`, the vocabulary learner, and starting up.

python benchmarks/text.py --data ../shared/data/raw --json text.json
python benchmarks/text.py --limit-mb 2 --rounds 3 --parts prepare startup

Every file or folder in --data is a text of its own; where --data is missing, the text is the English prose that every
Python installation carries. `prepare` is the whole stage, from files to a store on disk (sentences found, copies
dropped, hashes made). Beside it `tokenizers` does the least that gives ids: lines are read, encoded by
encode_batch_fast and put into arrays. The lines are the sentences that `prepare` finds, because a sentence may begin
within a word; they stand ready in a file. Both start in a new process for every run, with as many worker processes or
threads as the table says; imports are not timed, loading the vocabulary is. Rounds are interleaved, figures are
medians, ratios are medians of the rounds' ratios. The columns of CPU time say what a busy machine hides.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from machine import describe
from text_pass import Pass, in_new_process
from vocabulary import learn_ours, learn_theirs

from bertsmith.config import CorpusSettings, PrepareSettings
from bertsmith.console import Log
from bertsmith.quickstart.corpus import collect_documents
from bertsmith.text.corpus import Corpus
from bertsmith.text.prepare import prepare
from bertsmith.text.readers import find_files
from bertsmith.text.sentences import split_sentences

PARTS = ("vocabulary", "prepare", "startup")
SIDES = ("prepare", "encode_batch_fast")


@dataclass(frozen=True)
class Text:
    """A text in the two forms that the sides read.

    Attributes:
        name: of the file or folder that it comes from.
        path: documents apart by blank lines, each text once: for `prepare`.
        sentences: the sentences that `prepare` finds in it, one a line: for `tokenizers`.
        megabytes: the size of ``path``.
    """

    name: str
    path: Path
    sentences: Path
    megabytes: float


@dataclass(frozen=True)
class Tokenising:
    """A text turned into ids by both sides, in every round.

    Attributes:
        text: its name.
        megabytes: its size.
        processes: worker processes of `prepare`, threads of `tokenizers`.
        ours, theirs: a pass for each round.
    """

    text: str
    megabytes: float
    processes: int
    ours: tuple[Pass, ...]
    theirs: tuple[Pass, ...]

    @property
    def same_work(self) -> bool:
        """Whether all passes read the same characters and made the same ids."""
        return len({(p.characters, p.tokens, p.digest) for p in (*self.ours, *self.theirs)}) == 1

    def ratio(self, attribute: str) -> float:
        """Return the median of the rounds' ratios of their seconds to ours."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return statistics.median(getattr(b, attribute) / getattr(a, attribute) for a, b in pairs)


@dataclass(frozen=True)
class Learning:
    """Both vocabulary learners on the same file.

    Attributes:
        megabytes: of text.
        size: entries asked for.
        ours, theirs: seconds of each round.
    """

    megabytes: float
    size: int
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios of our seconds to theirs."""
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))


@dataclass(frozen=True)
class StartUp:
    """Seconds from a command to what a user waits for, each of several runs.

    Attributes:
        help: `bertsmith --help`, until it has ended.
        first_step: `bertsmith pretrain`, until the first step is in metrics.jsonl.
        resume: the same with `--resume`, until the first new step is there.
    """

    help: tuple[float, ...]
    first_step: tuple[float, ...]
    resume: tuple[float, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/raw"))
    parser.add_argument("--limit-mb", type=float, default=1000, help="of each text")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--vocabulary-size", type=int, default=30_000)
    parser.add_argument("--vocabulary-mb", type=float, default=42, help="of text that both learners learn from")
    parser.add_argument("--model-size", default="tiny", help="of the model whose first step is waited for")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.data.exists():
        print(f"{options.data} is not there: the text is the prose of this Python installation")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = collect_texts(options.data, options.limit_mb, folder)
        mixed = mix(texts, options.vocabulary_mb, folder)
        rounds = min(2, options.rounds) if "vocabulary" in options.parts else 0
        learning = learn(mixed, options.vocabulary_size, rounds, folder / "vocabulary")
        if learning.theirs:
            print(describe_learning(learning), flush=True)
        tokenising = []
        for text in texts if "prepare" in options.parts else []:
            tokenising += compare(text, folder / "vocabulary", options.processes, options.rounds, folder)
            print(describe_tokenising(tokenising[-len(options.processes) :]), flush=True)
        startup = start_up(texts[0], options.model_size, options.rounds, folder) if "startup" in options.parts else None
        if startup:
            print(describe_startup(startup, options.model_size))
    if options.json:
        figures = {
            "learning": asdict(learning) if learning.theirs else None,
            "tokenising": [asdict(t) | {"same_work": t.same_work} for t in tokenising],
            "startup": asdict(startup) if startup else None,
        }
        configuration = {key: value for key, value in vars(options).items() if key != "json"}
        content = {"configuration": configuration, "machine": describe(["numpy", "tokenizers"]), **figures}
        options.json.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    if not all(t.same_work for t in tokenising):
        sys.exit("the two sides did not do the same work: ids or characters differ")


def collect_texts(data: Path, limit_mb: float, folder: Path) -> list[Text]:
    """Write each text of ``data`` as one file, at most about so long; each document once, as one line or more."""
    if not data.exists():
        return [write_text("installation", installation(), limit_mb, folder)]
    texts = []
    for path in sorted(data.iterdir()):
        documents = Corpus(find_files([path], CorpusSettings()), CorpusSettings()).documents()
        texts.append(write_text(path.stem, (document.text for document in documents), limit_mb, folder))
    return texts


def installation() -> Iterator[str]:
    """Yield the prose of Python's modules, each text once; it is read as it is asked for."""
    seen = set()
    for document in collect_documents():
        text = "\n".join(document.paragraphs)
        if text not in seen:
            seen.add(text)
            yield text


def write_text(name: str, documents: Iterable[str], limit_mb: float, folder: Path) -> Text:
    """Write documents apart by blank lines, until they are long enough, and their sentences as `prepare` finds them."""
    path, size = folder / f"{name}.txt", 0
    with path.open("w", encoding="utf-8") as file:
        for document in documents:
            file.write(document + "\n\n")
            size += len(document.encode())
            if size > limit_mb * 1e6:
                break
    sentences, settings = folder / f"{name}.sentences", CorpusSettings()
    with sentences.open("w", encoding="utf-8") as file:
        for document in Corpus([path], settings).documents():
            file.writelines(f"{sentence}\n" for sentence in split_sentences(document.text, document.rule))
    return Text(name, path, sentences, path.stat().st_size / 1e6)


def mix(texts: Sequence[Text], megabytes: float, folder: Path) -> Path:
    """Write a file with documents of all texts, the same share of each."""
    share = min(1.0, megabytes / sum(text.megabytes for text in texts))
    path = folder / "mixed.txt"
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            documents = text.path.read_text(encoding="utf-8").split("\n\n")
            file.writelines(f"{d}\n\n" for n, d in enumerate(documents) if int((n + 1) * share) > int(n * share))
    return path


def learn(text: Path, size: int, rounds: int, output: Path) -> Learning:
    """Time both learners so many times; without a round only learn ours, which the other parts need."""
    ours, theirs = [], []
    for number in range(max(1, rounds)):
        shutil.rmtree(output, ignore_errors=True)
        # Who goes second may find the file in memory and the processor warm: they take turns.
        both = [lambda: ours.append(learn_ours(text, output, size)[0])]
        if rounds:
            both.insert(number % 2, lambda: theirs.append(learn_theirs(text, size)[0]))
        for one in both:
            one()
    return Learning(text.stat().st_size / 1e6, size, tuple(ours), tuple(theirs))


def compare(text: Text, vocabulary: Path, processes: Sequence[int], rounds: int, folder: Path) -> list[Tokenising]:
    """Turn a text into ids by both sides, with each number of processes in every round."""
    passes: dict[tuple[str, int], list[Pass]] = {(side, number): [] for number in processes for side in SIDES}
    for turn in range(rounds):
        for (side, number), found in list(passes.items())[:: -1 if turn % 2 else 1]:
            path = text.path if side == "prepare" else text.sentences
            found.append(in_new_process(side, path, vocabulary, number, folder / "store"))
    return [
        Tokenising(text.name, text.megabytes, number, *(tuple(passes[side, number]) for side in SIDES))
        for number in processes
    ]


def start_up(text: Text, size: str, rounds: int, folder: Path, helps: int = 7) -> StartUp:
    """Time `--help`, the way to the first step of a run, and the way to the first step after a resume."""
    vocabulary, store = folder / "small-vocabulary", folder / "small-store"
    learn_ours(text.path, vocabulary, 8_000)
    prepare(PrepareSettings(corpus=[text.path], vocab=vocabulary, output=store), Log(quiet=True)).close()
    bertsmith = [sys.executable, "-m", "bertsmith"]
    answered, firsts, resumes = [], [], []
    for _ in range(helps):
        begun = time.perf_counter()
        subprocess.run([*bertsmith, "--help"], check=True, stdout=subprocess.DEVNULL)
        answered.append(time.perf_counter() - begun)
    for number in range(rounds):
        run = folder / f"run-{number}"
        command = [*bertsmith, "pretrain", str(store), "--size", size, "--steps", "1000000", "--quiet", "-o", str(run)]
        seconds, steps = wait_for_step(command, run, after=0)
        firsts.append(seconds)
        resumes.append(wait_for_step([*command, "--resume"], run, after=steps)[0])
        shutil.rmtree(run)
    return StartUp(tuple(answered), tuple(firsts), tuple(resumes))


def wait_for_step(command: Sequence[str], run: Path, after: int) -> tuple[float, int]:
    """Return the seconds until a step later than ``after`` is logged, and the last step when the run was stopped."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while last_step(run / "metrics.jsonl") <= after:
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} ended: {process.stderr.read() if process.stderr else ''}")
            time.sleep(0.005)
        seconds = time.perf_counter() - begun
    finally:
        # The first signal lets the run write a checkpoint.
        process.send_signal(signal.SIGTERM)
        process.communicate()
    return seconds, last_step(run / "metrics.jsonl")


def last_step(metrics: Path) -> int:
    """Return the last training step that a log holds, 0 for none."""
    if not metrics.exists():
        return 0
    lines = metrics.read_text(encoding="utf-8").split("\n")[:-1]
    return max((e["step"] for e in map(json.loads, lines) if e["kind"] == "train"), default=0)


def describe_learning(learning: Learning) -> str:
    ours, theirs = statistics.median(learning.ours), statistics.median(learning.theirs)
    return (
        f"vocabulary of {learning.size:,} entries from {learning.megabytes:.1f} MB, {len(learning.ours)} rounds: "
        f"bertsmith {ours:.1f} s, tokenizers {theirs:.1f} s, ratio {learning.ratio:.2f}\n"
    )


def describe_tokenising(rows: Sequence[Tokenising]) -> str:
    lines = [
        f"{rows[0].text}, {rows[0].megabytes:.1f} MB, {len(rows[0].ours)} rounds, {rows[0].ours[0].tokens:,} tokens",
        f"{'processes':<10}{'prepare':>14}{'encode_batch':>14}{'ratio':>8}{'ratio (CPU)':>13}{'same ids':>10}",
    ]
    for row in rows:
        ours, theirs = (row.megabytes / statistics.median(p.seconds for p in side) for side in (row.ours, row.theirs))
        lines.append(
            f"{row.processes:<10}{ours:>9.2f} MB/s{theirs:>9.2f} MB/s{row.ratio('seconds'):>8.2f}"
            f"{row.ratio('cpu_seconds'):>13.2f}{'yes' if row.same_work else 'NO':>10}"
        )
    first, last = rows[0], rows[-1]
    if first is not last:
        gain = [statistics.median(p.seconds for p in row.ours) for row in (first, last)]
        work = [statistics.median(p.cpu_seconds for p in row.ours) for row in (first, last)]
        lines.append(
            f"prepare with {last.processes} processes over {first.processes}: {gain[0] / gain[1]:.2f} times the speed, "
            f"{work[1] / work[0]:.2f} times the CPU time"
        )
    return "\n".join(lines) + "\n"


def describe_startup(startup: StartUp, size: str) -> str:
    rows = (
        ("bertsmith --help", startup.help),
        (f"first step of a {size} model", startup.first_step),
        ("first step after a resume", startup.resume),
    )
    return "\n".join(f"{what:<32}{statistics.median(runs):>7.2f} s, median of {len(runs)}" for what, runs in rows)


if __name__ == "__main__":
    main()
