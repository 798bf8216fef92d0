"""What a service counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from bertsmith.service.turns import Turn, Turns

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 32768)
_REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one service; another one in the same process has its own."""

    def __init__(self, turns: Turns) -> None:
        self.registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        PlatformCollector(registry=own)
        asked = ("route", "model")
        self.requests = Counter("bertsmith_requests", "Answered requests.", (*asked, "status"), registry=own)
        self.seconds = Histogram(
            "bertsmith_request_seconds", "From a request to its answer.", asked, buckets=_SECONDS, registry=own
        )
        self.texts = Counter("bertsmith_texts", "Texts that were asked about.", ("model",), registry=own)
        self.tokens = Counter("bertsmith_tokens", "Tokens that models computed.", ("model",), registry=own)
        self.batch_seconds = Histogram(
            "bertsmith_batch_seconds", "Time of a batch.", ("model",), buckets=_SECONDS, registry=own
        )
        self.batch_tokens = Histogram(
            "bertsmith_batch_tokens", "Tokens of a batch.", ("model",), buckets=_TOKENS, registry=own
        )
        self.batch_requests = Histogram(
            "bertsmith_batch_requests", "Requests that share a batch.", ("model",), buckets=_REQUESTS, registry=own
        )
        self.inside = Gauge("bertsmith_requests_inside", "Requests being read, waiting or computed.", registry=own)
        tokens = Gauge("bertsmith_queue_tokens", "Tokens that wait for a batch.", registry=own)
        tokens.set_function(lambda: turns.waiting_tokens)
        jobs = Gauge("bertsmith_queue_requests", "Requests that wait for a batch.", registry=own)
        jobs.set_function(lambda: turns.waiting_jobs)

    def batch(self, turn: Turn, seconds: float) -> None:
        """Count a batch that was computed."""
        name = turn.lane.name
        self.tokens.labels(name).inc(turn.tokens)
        self.batch_seconds.labels(name).observe(seconds)
        self.batch_tokens.labels(name).observe(turn.tokens)
        self.batch_requests.labels(name).observe(len(turn.parts))

    def text(self) -> bytes:
        """Return all of it in Prometheus' text form."""
        return generate_latest(self.registry)
