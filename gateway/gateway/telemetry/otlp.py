"""Spans in OpenTelemetry, sent to a collector by OTLP over HTTP. Imported only if a collector is configured."""

import logging
import time
from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from typing_extensions import override

from gateway.telemetry.outcomes import AttemptOutcome
from onecard import logs

_W3C = TraceContextTextMapPropagator()
_EXPORT_TIMEOUT_SECONDS = 2.0
"""Longest wait for the collector, also at the end, where it must not delay the shutdown."""

log = logs.logger()


class OtlpTracer:
    """Sends spans in the background. Everything else is configured by OpenTelemetry's own variables."""

    def __init__(self, endpoint: str) -> None:
        """Start the exporter.

        Args:
            endpoint: base URL of the collector.
        """
        # OpenTelemetry's own log messages contain the collector's address.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        exporter = _LoggingExporter(f"{endpoint}/v1/traces", timeout=_EXPORT_TIMEOUT_SECONDS)
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "onecard-gateway"}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("onecard.gateway")

    def request(
        self, name: str, method: str, route: str, headers: Mapping[str, str], seconds_ago: float
    ) -> "OtlpRequestSpan":
        """See `gateway.telemetry.trace.Tracer.request`."""
        span = self._tracer.start_span(
            name,
            context=_W3C.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
            start_time=time.time_ns() - int(seconds_ago * 1e9),
        )
        return OtlpRequestSpan(self._tracer, span)

    def close(self) -> None:
        """Send the remaining spans. Blocks, at most for the collector's timeout."""
        self._provider.shutdown()


class _LoggingExporter(OTLPSpanExporter):
    """Logs when spans are lost."""

    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if result is not SpanExportResult.SUCCESS:
            log.warning("spans not sent", spans=len(spans))
        return result


class OtlpRequestSpan:
    """See `gateway.telemetry.trace.RequestSpan`."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        """Wrap a span.

        Args:
            tracer: for the spans of attempts.
            span: of the request.
        """
        self._tracer = tracer
        self._span = span

    def attempt(self, upstream: str, replica: int) -> "OtlpAttemptSpan":
        """See `gateway.telemetry.trace.RequestSpan`.

        Args:
            upstream: name of the service.
            replica: its number.

        Returns:
            The span of the attempt.
        """
        return OtlpAttemptSpan(
            self._tracer.start_span(
                upstream,
                context=set_span_in_context(self._span),
                kind=SpanKind.CLIENT,
                attributes={"onecard.upstream": upstream, "onecard.replica": replica},
            )
        )

    def end(self, status: int) -> None:
        """End the span; see `gateway.telemetry.trace.RequestSpan`."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class OtlpAttemptSpan:
    """See `gateway.telemetry.trace.AttemptSpan`."""

    def __init__(self, span: Span) -> None:
        """Wrap a span.

        Args:
            span: of the attempt.
        """
        self._span = span
        self.headers: dict[str, str] = {}
        _W3C.inject(self.headers, set_span_in_context(span))

    def end(self, outcome: AttemptOutcome) -> None:
        """End the span; see `gateway.telemetry.trace.AttemptSpan`."""
        self._span.set_attribute("onecard.outcome", outcome)
        if outcome not in ("ok", "given_up"):
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
