// Package tracing tells a collector of OpenTelemetry what becomes of requests and how long each step takes, if those who run the server
// ask for it (KEP-647). Spans are sent in the background and in batches. When the collector does not take them they are dropped: no
// request waits for it.
//
// Without a configuration there is no Tracer, and nothing stands in the way of requests. Steps call Start in any case, which then does nothing.
package tracing

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// scope names who makes the spans.
const scope = "github.com/skiff-k8s/skiff/apiserver/tracing"

// context of traces, as W3C has it.
var w3c propagation.TraceContext

// Start begins a step of the request of ctx. It ends with end. Where no trace is made, nothing happens.
func Start(ctx context.Context, step string, about ...attribute.KeyValue) (of context.Context, end func()) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, func() {}
	}
	ctx, span := parent.TracerProvider().Tracer(scope).Start(ctx, step, trace.WithAttributes(about...))
	return ctx, func() { span.End() }
}

// Inject has a request to another server say to which trace it belongs.
func Inject(ctx context.Context, header http.Header) {
	w3c.Inject(ctx, propagation.HeaderCarrier(header))
}

// Request is what a span says of a request.
type Request struct {
	Name    string // of the span: no two requests of a kind differ in it
	Target  string // the path, with its query
	AuditID string
	// Trusted clients have their requests belong to the trace that they say, and be sampled as they say. Those of others begin one.
	Trusted bool
}

// Begin begins the trace of r, or what is ours of one. The answer's code is given to end.
func (t *Tracer) Begin(r *http.Request, about Request) (ctx context.Context, end func(code int)) {
	ctx = r.Context()
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("http.method", r.Method), attribute.String("http.target", about.Target),
		attribute.String("user_agent.original", r.UserAgent()), attribute.String("audit-id", about.AuditID))}
	theirs := w3c.Extract(ctx, propagation.HeaderCarrier(r.Header))
	switch said := trace.SpanContextFromContext(theirs); {
	case about.Trusted:
		ctx = theirs
	case said.IsValid():
		options = append(options, trace.WithNewRoot(), trace.WithLinks(trace.Link{SpanContext: said}))
	}
	ctx, span := t.tracer.Start(ctx, about.Name, options...)
	return ctx, func(code int) {
		span.SetAttributes(attribute.Int("http.status_code", code))
		if code >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
}
