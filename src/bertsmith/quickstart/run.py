"""``bertsmith quickstart``: from this machine's own prose to a BERT, a classifier and a page to look at."""

from __future__ import annotations

import time
from pathlib import Path

from bertsmith import files
from bertsmith.catalogue.translate import phrase
from bertsmith.config import PrepareSettings, PretrainSettings, VocabularySettings
from bertsmith.console import Log, clock
from bertsmith.errors import InputError
from bertsmith.quickstart.corpus import QuickstartCorpus, build_corpus
from bertsmith.serving.looking import fill, next_sentence
from bertsmith.task_config import ClassifySettings
from bertsmith.tasks import baselines, classify
from bertsmith.tasks.task import Source
from bertsmith.tasks.texts import read_texts
from bertsmith.text.prepare import prepare
from bertsmith.text.vocabulary import learn_vocabulary
from bertsmith.training.finetune import finetune
from bertsmith.training.pretrain import pretrain
from bertsmith.training.report import (
    Section,
    bar_rows,
    finetuning_sections,
    paragraph,
    pretraining_sections,
    table,
    write_report,
)

BLANKS = (
    "Return True if the [MASK] is empty.",
    "This method should not be [MASK] directly.",
    "The default [MASK] is used if no argument is given.",
)

HONEST = (
    "This model is hundreds of times smaller than BERT-base, and it read for minutes what BERT-base read for days. "
    "It can learn which words are frequent, which pieces make a word, and the turns of phrase of documentation. It "
    "cannot know facts, follow an argument, or be of use on text unlike what it read. A linear model over TF-IDF is "
    "hard to beat at this size: compare the two rows below before you believe in either. What you see here is that "
    "every part works; with your own text, more of it, and hours instead of minutes, the same commands give a model "
    "worth using."
)


def run_quickstart(output: Path, budget: str = "4m", log: Log | None = None) -> Path:
    """Do the whole main job and return the path of the page that shows it.

    Run again with the same output, it keeps what is finished and goes on from there.

    Raises:
        InputError: the output directory holds something else.
    """
    log = log or Log()
    started = time.monotonic()
    marker = output / "quickstart.txt"
    if output.exists() and any(output.iterdir()) and not marker.exists():
        raise InputError("holds other files; choose a new directory with -o", path=output)
    output.mkdir(parents=True, exist_ok=True)
    marker.write_text("Made by 'bertsmith quickstart'; may be deleted.\n", encoding="utf-8")
    vocab, store, run, tuned = (output / name for name in ("vocab", "store", "run", "tuned"))

    log.say("1/6 collecting the English prose of this installation")
    corpus = build_corpus(output / "corpus", log)
    log.say(f"{corpus.documents:,} documents, {corpus.characters:,} characters in {corpus.texts}")
    log.say("2/6 learning a vocabulary")
    if not vocab.exists():
        learn_vocabulary(VocabularySettings(corpus=[corpus.texts], size=6000, lowercase=True, output=vocab), log)
    log.say("3/6 preparing the text")
    prepare(PrepareSettings(corpus=[corpus.texts], vocab=vocab, output=store), log)
    log.say("4/6 pre-training")
    if not (run / "model").exists():
        pretrain(
            PretrainSettings(
                store=store,
                output=run,
                size="tiny",
                hidden_size=192,
                heads=4,
                max_length=96,
                max_positions=128,
                learning_rate=2e-3,
                dropout=0.0,
                budget=budget,
                resume=run.exists(),
            ),
            log,
        )
    log.say("5/6 looking at what it learned")
    blanks = [(text, fill(run, text)[0]) for text in BLANKS]
    for text, answers in blanks:
        log.say(f"  {text}  " + ", ".join(f"{token} {share:.0%}" for token, share in answers))
    verdicts = [(a, b, truth, next_sentence(run, a, b)) for a, b, truth in corpus.pairs]
    for a, b, truth, share in verdicts:
        log.say(f"  A: {a}\n  B: {b}\n     B follows A: {share:.0%} (in truth {'yes' if truth else 'no'})")
    log.say("6/6 fine-tuning: which package does a sentence come from?")
    if not (tuned / "model").exists():
        settings = ClassifySettings(
            model=run,
            train=corpus.train,
            dev=corpus.dev,
            output=tuned,
            epochs=5,
            learning_rate=5e-4,
            metric="accuracy",
            max_length=64,
        )
        finetune(settings, log)
    page = _write_page(output, corpus, blanks, verdicts, run, tuned, log)
    log.say(f"done in {clock(time.monotonic() - started)}. Open {page}")
    log.say("With your own text:")
    log.say("  bertsmith vocab TEXTS --size 8000 -o vocab")
    log.say("  bertsmith prepare TEXTS --vocab vocab -o store")
    log.say("  bertsmith pretrain store --size auto --budget 30m -o run")
    return page


def _write_page(
    output: Path,
    corpus: QuickstartCorpus,
    blanks: list[tuple[str, list[tuple[str, float]]]],
    verdicts: list[tuple[str, str, bool, float]],
    run: Path,
    tuned: Path,
    log: Log,
) -> Path:
    train, dev = (read_texts(Source(path, {"text": "text", "label": "label"})) for path in (corpus.train, corpus.dev))
    labels = classify.label_names(train, dev)
    most = baselines.majority(train, dev, labels)
    linear = baselines.tfidf(train, dev, labels, "words and characters")
    tuned_sections = finetuning_sections(tuned)
    scores = _accuracy(tuned)
    rows = [
        (phrase("most frequent label"), *most.metrics.values()),
        (phrase("TF-IDF + logistic regression"), *linear.metrics.values()),
        (phrase("this BERT, fine-tuned"), *scores),
    ]
    for name, accuracy, macro_f1 in rows:
        log.say(f"  {name}: accuracy {accuracy:.1%}, macro F1 {macro_f1:.3f}")
    filled = [block for text, answers in blanks for block in (paragraph(text), bar_rows(answers))]
    pairs = table(
        ("A", "B", "probability that B follows", "in truth"),
        [
            (a, b, f"{share:.0%}", phrase("follows") if truth else phrase("from elsewhere"))
            for a, b, truth, share in verdicts
        ],
    )
    facts = (
        f"Pre-trained on {corpus.documents:,} documents ({corpus.characters:,} characters) of documentation on this "
        "machine. The pairs and the dev sentences below are from documents that it has not read; package names are "
        "left out of the labelled sentences."
    )
    sections = [
        Section("What this is", [paragraph(facts), paragraph(HONEST)]),
        Section("Filled blanks", filled),
        Section("Does B follow A?", [pairs]),
        Section("Which package is a sentence from?", [table(("on dev", "accuracy", "macro F1"), rows)]),
        *pretraining_sections(run)[:-1],
        *(s for s in tuned_sections if s.title != "Settings"),
    ]
    subtitle = phrase("A BERT from this machine's own text")
    return write_report(output / "report.html", "Bertsmith quickstart", subtitle, sections)


def _accuracy(tuned: Path) -> tuple[float, float]:
    mean = files.read_json(tuned / "scores.json", what="the scores of a fine-tuning run")["mean"]
    return mean["accuracy"], mean["macro_f1"]
