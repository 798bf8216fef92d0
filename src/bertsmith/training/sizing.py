"""``--size auto``: the named size that learns most in a budget, by its speed here and the length of the text."""

from __future__ import annotations

from bertsmith.config import SIZES, PretrainSettings
from bertsmith.configuration import CONFIG
from bertsmith.console import Log, human
from bertsmith.model.heads import PretrainingModel
from bertsmith.planning.sizes import TOKENS_PER_WEIGHT, is_worth_it, weights_of_layers
from bertsmith.pretraining.heldout import held_out_documents
from bertsmith.pretraining.sampler import Sampler
from bertsmith.text.store import TokenStore
from bertsmith.training.budget import measure_step
from bertsmith.training.device import pick_device, pick_precision
from bertsmith.training.initial import model_config
from bertsmith.training.processes import Processes
from bertsmith.training.session import make_sampler, objective, pieces_of_step


def with_size(settings: PretrainSettings, store: TokenStore, processes: Processes, log: Log) -> PretrainSettings:
    """Return settings that name a size, where they leave it open; every process must ask.

    A run that was begun keeps its size. For a new one the sizes are timed from the smallest up, a second or two each,
    and the largest that the budget is long enough for is taken.

    Raises:
        InputError: the store has too little text, or the device cannot be used.
    """
    if settings.size != "auto":
        return settings
    path = settings.output / CONFIG
    begun = PretrainSettings.from_yaml(path).size if processes.is_first and path.exists() else None
    chosen = processes.share(begun) or _largest_worth_it(settings, store, processes, log)
    return settings.model_copy(update={"size": chosen})


def _largest_worth_it(settings: PretrainSettings, store: TokenStore, processes: Processes, log: Log) -> str:
    assert settings.budget is not None
    text = store.num_tokens
    documents, _ = held_out_documents(store, settings.held_out, settings.seed)
    sampler = make_sampler(settings, store, documents)
    log.say(f"size auto: what {settings.budget / 60:.3g} minutes are enough for, with {human(text)} tokens of text")
    chosen, *larger = SIZES
    tokens = _tokens_in_time(chosen, settings, store, sampler, processes, log)
    for size in larger:
        # A larger model makes no more tokens a second, so what the last one makes is a bound.
        if not is_worth_it(size, tokens, text):
            break
        tokens = _tokens_in_time(size, settings, store, sampler, processes, log)
        if not is_worth_it(size, tokens, text):
            break
        chosen = size
    log.say(
        f"size auto takes {chosen}; a size is worth its slower steps from {TOKENS_PER_WEIGHT:g} tokens of new text for "
        "a weight on, and repeated text is worth less"
    )
    return chosen


def _tokens_in_time(
    size: str, settings: PretrainSettings, store: TokenStore, sampler: Sampler, processes: Processes, log: Log
) -> float:
    """Return how many tokens a model of a named size sees in the budget, which may end before its time."""
    assert settings.budget is not None
    sized = settings.model_copy(update={"size": size})
    device, config = pick_device(settings.device), model_config(sized, store.vocab_size)
    seconds = measure_step(
        PretrainingModel(config).to(device),
        lambda step: pieces_of_step(sized, sampler, processes, step),
        objective(sized.next_sentence),
        sized,
        device,
        processes.share(pick_precision(sized.precision, device, config.hidden_size)),
        at_most=min(2.0, settings.budget / 100),
    )
    # The processes' clocks differ a little; one of them decides.
    rate = sampler.tokens_per_step / processes.share(seconds)
    tokens = min(rate * settings.budget, settings.max_epochs * store.num_tokens)
    log.say(
        f"  {size} {config.num_hidden_layers}x{config.hidden_size}: {rate:,.0f} tokens/s; {human(tokens)} tokens, "
        f"{tokens / store.num_tokens:.1f} passes over the text, {tokens / weights_of_layers(size):.1f} for each weight"
    )
    return tokens
