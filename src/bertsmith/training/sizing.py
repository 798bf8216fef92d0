"""``--size auto``: the named size that learns most in a budget, by its speed here and the length of the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from bertsmith.batch import Batch
from bertsmith.config import PretrainSettings
from bertsmith.console import Log, clock, human
from bertsmith.model.heads import PretrainingModel
from bertsmith.planning.sizes import TOKENS_PER_WEIGHT, is_worth_it, weights_of_layers, worth
from bertsmith.pretraining.heldout import held_out_documents
from bertsmith.text.store import TokenStore
from bertsmith.training.budget import measure_step
from bertsmith.training.device import give_back_memory, pick_device, pick_precision
from bertsmith.training.initial import model_config
from bertsmith.training.processes import Processes
from bertsmith.training.session import make_sampler, objective, pieces_of_step

# Batches of a trial: made before the clock runs, as those of a run are made beside its steps.
_BATCHES = 8


def with_size(
    settings: PretrainSettings, store: TokenStore, processes: Processes, stopped: Callable[[], bool], log: Log
) -> PretrainSettings:
    """Return settings that name a size, where they leave it open; every process must ask.

    The sizes are timed from the smallest up, a second or two each, and the largest that the budget is long enough for
    is taken.

    Raises:
        InputError: the store has too little text, or the device cannot be used.
        KeyboardInterrupt: the user stopped it.
    """
    if settings.size != "auto":
        return settings
    return settings.model_copy(update={"size": _largest_worth_it(settings, store, processes, stopped, log)})


@dataclass(frozen=True)
class _Trials:
    """What the trials of all sizes share.

    Attributes:
        settings, store, processes, log: of the run.
        batches: this process's micro-batches of a few steps.
        tokens_per_step: of all processes.
        text: tokens of one pass over the text that is trained on.
    """

    settings: PretrainSettings
    store: TokenStore
    processes: Processes
    log: Log
    batches: Sequence[Sequence[Batch]]
    tokens_per_step: float
    text: float

    def tokens(self, size: str) -> float:
        """Return how many tokens a model of this size sees before the budget or the text is used up; 0 without room."""
        assert self.settings.budget is not None
        sized = self.settings.model_copy(update={"size": size})
        device, config = pick_device(sized.device), model_config(sized, self.store.vocab_size)
        dtype = self.processes.share(pick_precision(sized.precision, device, config.hidden_size))
        layers, width = config.num_hidden_layers, config.hidden_size
        seconds = None
        try:
            seconds = measure_step(
                PretrainingModel(config).to(device),
                lambda step: self.batches[step % len(self.batches)],
                objective(sized.next_sentence),
                sized,
                device,
                dtype,
                at_most=min(2.0, self.settings.budget / 100),
            )
        except torch.OutOfMemoryError:
            self.log.say(f"  {size} {layers}x{width}: too large for this device's memory")
        give_back_memory(device)
        if self.processes.any(seconds is None):
            return 0.0
        # The processes' clocks differ a little; one of them decides.
        rate = self.tokens_per_step / self.processes.share(seconds)
        tokens = min(rate * self.settings.budget, self.settings.max_epochs * self.text)
        passes, each = tokens / self.text, worth(tokens, self.text) / weights_of_layers(size)
        self.log.say(
            f"  {size} {layers}x{width}: {rate:,.0f} tokens/s, {human(tokens)} tokens in {passes:.1f} passes over the "
            f"text: worth {each:.1f} for a weight"
        )
        return tokens


def _largest_worth_it(
    settings: PretrainSettings, store: TokenStore, processes: Processes, stopped: Callable[[], bool], log: Log
) -> str:
    assert settings.budget is not None
    documents, _ = held_out_documents(store, settings.held_out, settings.seed)
    sampler = make_sampler(settings, store, documents)
    text = sampler.steps_per_epoch * sampler.tokens_per_step
    batches = [pieces_of_step(settings, sampler, processes, step) for step in range(_BATCHES)]
    trials = _Trials(settings, store, processes, log, batches, sampler.tokens_per_step, text)
    log.say(
        f"size auto: timing what {clock(settings.budget)} are enough for; a pass over the text is {human(text)} tokens"
    )
    chosen, *larger = TOKENS_PER_WEIGHT
    tokens = trials.tokens(chosen)
    for size in larger:
        if processes.any(stopped()):
            raise KeyboardInterrupt
        # A larger model makes no more tokens a second, so what the last one makes is a bound.
        if is_worth_it(size, tokens, text):
            tokens = trials.tokens(size)
        if not is_worth_it(size, tokens, text):
            log.say(
                f"size auto takes {chosen}; {size} is worth its slower steps from {TOKENS_PER_WEIGHT[size]:g} tokens "
                "of new text for a weight of its layers on, and repeated text is worth less"
            )
            return chosen
        chosen = size
    log.say(f"size auto takes {chosen}, the largest that it knows of")
    return chosen
