"""Figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmx_serve.gate import State
from llmx_serve.models import Models

if TYPE_CHECKING:
    from llmx.generate.request import Answer

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
GAUGES = {
    "active": ("llmx_active_sequences", "Sequences that have a slot."),
    "waiting": ("llmx_waiting_requests", "Requests that wait for a slot."),
    "slots": ("llmx_slots", "Sequences that are computed at once, at most."),
    "cache_bytes": ("llmx_cache_bytes", "Bytes of keys and values, those kept for later prompts included."),
}
COUNTERS = {
    "prompt_tokens": ("llmx_prompt_tokens", "Tokens of prompts that were computed."),
    "reused_tokens": ("llmx_reused_tokens", "Tokens of prompts whose keys and values were there already."),
    "generated_tokens": ("llmx_generated_tokens", "Tokens that were drawn."),
}


class Engines(Collector):
    """What the engines say of themselves, by the name of the first model of each."""

    def __init__(self, models: Models) -> None:
        self._names = {
            next(name for name, each in models.by_name.items() if each.base is base): base for base in models.bases
        }

    def collect(self) -> Iterator[Metric]:
        """Yield a family for each figure."""
        stats = {name: base.engine.stats() for name, base in self._names.items()}
        for key, (metric, text) in GAUGES.items():
            gauge = GaugeMetricFamily(metric, text, labels=["model"])
            for name, each in stats.items():
                gauge.add_metric([name], getattr(each, key))
            yield gauge
        for key, (metric, text) in COUNTERS.items():
            counter = CounterMetricFamily(metric, text, labels=["model"])
            for name, each in stats.items():
                counter.add_metric([name], getattr(each, key))
            yield counter
        up = GaugeMetricFamily("llmx_up", "Whether the model's engine answers.", labels=["model"])
        for name, base in self._names.items():
            up.add_metric([name], float(base.engine.alive))
        yield up


class Metrics:
    """The figures of one server."""

    def __init__(self, models: Models, state: State) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(Engines(models))
        self._requests = Counter("llmx_requests", "Requests.", ["route", "status"], registry=registry)
        self._request_s = Histogram(
            "llmx_request_seconds", "Time of a request.", ["route"], registry=registry, buckets=SECONDS
        )
        self._first_s = Histogram(
            "llmx_first_token_seconds", "Time to an answer's first token.", registry=registry, buckets=SECONDS
        )
        self._answers = Counter("llmx_answers", "Answers.", ["finish_reason"], registry=registry)
        Gauge("llmx_going_requests", "Requests that are being answered.", registry=registry).set_function(
            lambda: state.going
        )

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, status).inc()
        self._request_s.labels(route).observe(seconds)

    def answered(self, answer: Answer) -> None:
        """Count an answer that has ended, or is left."""
        self._answers.labels(answer.finish_reason or "cancelled").inc()
        if answer.first_s is not None:
            self._first_s.observe(answer.first_s - answer.submitted_s)

    def text(self) -> bytes:
        """Return the page that Prometheus reads."""
        return generate_latest(self._registry)
