"""``bertsmith finetune --search N``: a study of learning rate, epochs, batch size and warm-up, by the dev metric.

The first trials are of the paper's grid (appendix A.3), with rates from the run's own down; the others are
proposed by Optuna's TPE. Trials that are behind the median of the earlier ones after the same share of their training
are stopped. The study is kept in a journal, so a stopped search goes on; what a trial is depends on the seed and the
trials before it alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from bertsmith import files
from bertsmith.errors import DivergedError, InputError
from bertsmith.training.checkpoint import MetricsLog
from bertsmith.training.tuning import RunState, SeedState, Session, chosen_metric, resume_command, tune

if TYPE_CHECKING:
    import optuna

JOURNAL, TRIALS = "search/study.journal", "search/trials.json"

_SLOWEST, _FASTEST = 1e-5, 1e-3
# Batch sizes, learning rates (as shares of the run's own) and epochs of appendix A.3, so ordered that any first few of
# them differ in all three.
_GRID = sorted(
    itertools.product((32, 16), (1.0, 0.6, 0.4), (3, 2, 4)),
    key=lambda point: ((32, 16).index(point[0]) + (1.0, 0.6, 0.4).index(point[1]) + (3, 2, 4).index(point[2])) % 3,
)


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried.

    Attributes:
        number: from 0.
        settings: what it set.
        value: its best dev metric; None if it was stopped early.
        epochs_done: how far it came.
    """

    number: int
    settings: dict[str, float | int]
    value: float | None
    epochs_done: float


def best_of(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the best dev metric, of equal ones the first; trials that were stopped do not count."""
    return max(trials, key=lambda trial: (-math.inf if trial.value is None else trial.value, -trial.number))


def search(session: Session, trials: int) -> list[Trial]:
    """Make ``trials`` trials, those of earlier sessions included, and return them.

    The table of trials is written to search/trials.json in the output directory.

    Raises:
        InputError: Optuna is not installed, or no trial came to its end.
        KeyboardInterrupt: stopped by the user; the trials so far are kept.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise InputError("--search needs Optuna: pip install 'bertsmith[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = (session.settings.output / JOURNAL).parent
    folder.mkdir(parents=True, exist_ok=True)
    journal = JournalFileBackend(str(session.settings.output / JOURNAL))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(journal),
        study_name="search",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    with MetricsLog(folder / "metrics.jsonl", keep=lambda entry: True) as metrics:
        while (number := len(study.get_trials(deepcopy=False, states=finished))) < trials:
            # A sampler of its own for every trial: the same proposals after a resume.
            study.sampler = optuna.samplers.TPESampler(seed=session.settings.seed * 100_003 + number)
            if number < min(len(_GRID), max(1, trials // 2)):
                batch_size, share, epochs = _GRID[number]
                rate = _grid_rate(session, share)
                point = {"learning_rate": rate, "epochs": epochs, "batch_size": batch_size, "warmup": 0.1}
                study.enqueue_trial(point)
            _make_trial(study, replace(session, metrics=metrics), number)
            files.write_json(session.settings.output / TRIALS, [asdict(trial) for trial in _table(study)])
    found = _table(study)
    best = best_of(found)
    if best.value is None:
        raise InputError("no trial of the search came to its end: the numbers of all went bad; try --precision float32")
    session.log.say(f"best of {trials} trials: {_words(best.settings)} with {best.value:.3f}")
    return found


def _grid_rate(session: Session, share: float) -> float:
    assert session.settings.learning_rate is not None
    return min(_FASTEST, max(_SLOWEST, round(share * session.settings.learning_rate, 8)))


def _make_trial(study: optuna.Study, session: Session, number: int) -> None:
    import optuna

    trial = study.ask()
    point: dict[str, float | int] = {
        "learning_rate": trial.suggest_float("learning_rate", _SLOWEST, _FASTEST, log=True),
        "epochs": trial.suggest_int("epochs", 2, 6),
        "batch_size": trial.suggest_categorical("batch_size", [8, 16, 32, 64]),
        "warmup": trial.suggest_float("warmup", 0.0, 0.3),
    }
    session = replace(session, settings=session.settings.model_copy(update=point))
    point["epochs"] = round(point["epochs"] * session.stretch)
    trial.set_user_attr("settings", point)
    settings = session.settings.model_copy(update=point)
    session.log.say(f"trial {number}: {_words(point)}")
    is_behind = False

    def judge(epoch: float, best: float) -> bool:
        # Trials have different numbers of epochs; they are compared after the same share of their training.
        nonlocal is_behind
        trial.report(best, round(100 * epoch / session.epochs))
        is_behind = trial.should_prune()
        return is_behind

    session = replace(session, settings=settings, after_epoch=judge, keeps_checkpoints=False)
    run = RunState([SeedState(settings.seed)])
    diverged = False
    try:
        if not tune(session, run, None):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            session.log.say(f"stopped; the trials so far are kept. Go on with:\n  {resume_command(settings)}")
            raise KeyboardInterrupt
    except DivergedError as error:
        diverged = True
        session.log.warn(f"trial {number}: {error}")
    state = run.seeds[0]
    trial.set_user_attr("epochs_done", round(state.step / session.steps_per_epoch, 2))
    if is_behind:
        session.log.say(f"trial {number}: behind the others, stopped early")
    if diverged or is_behind:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, state.metrics[chosen_metric(settings, state.metrics)])


def _table(study: optuna.Study) -> list[Trial]:
    return [
        Trial(
            number,
            t.user_attrs["settings"],
            t.value if t.state.name == "COMPLETE" else None,
            t.user_attrs["epochs_done"],
        )
        for number, t in enumerate(t for t in study.get_trials() if t.state.name in ("COMPLETE", "PRUNED"))
    ]


def _words(params: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in params.items())
