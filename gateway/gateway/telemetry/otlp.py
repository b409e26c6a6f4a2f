"""Spans by OpenTelemetry, sent to a collector as OTLP over HTTP. Imported only where a collector is named."""

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
"""How long a collector is waited for, at the end too: it must not hold up a stop."""

log = logs.logger()


class OtlpTracer:
    """Sends spans in the background; `close` sends what is left. OpenTelemetry's own variables set all the rest."""

    def __init__(self, endpoint: str) -> None:
        """Take the collector's base URL."""
        # Its messages quote the collector's address.
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
        """See `gateway.telemetry.trace.Tracer`."""
        span = self._tracer.start_span(
            name,
            context=_W3C.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
            start_time=time.time_ns() - int(seconds_ago * 1e9),
        )
        return OtlpRequestSpan(self._tracer, span)

    def close(self) -> None:
        """Send what is left. Blocks for as long as the collector is waited for."""
        self._provider.shutdown()


class _LoggingExporter(OTLPSpanExporter):
    """Tells when spans are lost."""

    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if result is not SpanExportResult.SUCCESS:
            log.warning("spans not sent", spans=len(spans))
        return result


class OtlpRequestSpan:
    """See `gateway.trace.RequestSpan`."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span

    def attempt(self, upstream: str, replica: int) -> "OtlpAttemptSpan":
        """See `gateway.trace.RequestSpan`."""
        return OtlpAttemptSpan(
            self._tracer.start_span(
                upstream,
                context=set_span_in_context(self._span),
                kind=SpanKind.CLIENT,
                attributes={"onecard.upstream": upstream, "onecard.replica": replica},
            )
        )

    def end(self, status: int) -> None:
        """See `gateway.trace.RequestSpan`."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class OtlpAttemptSpan:
    """See `gateway.trace.AttemptSpan`."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.headers: dict[str, str] = {}
        _W3C.inject(self.headers, set_span_in_context(span))

    def end(self, outcome: AttemptOutcome) -> None:
        """See `gateway.trace.AttemptSpan`."""
        self._span.set_attribute("onecard.outcome", outcome)
        if outcome not in ("ok", "given_up"):
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
