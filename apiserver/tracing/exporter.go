package tracing

import (
	"context"
	"log/slog"
	"sync"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// exporter sends spans until its end, and logs those that are lost. The library would tell a handler that the whole process has one of,
// and go on after the end with what a collector that hangs has not taken.
type exporter struct {
	sdktrace.SpanExporter
	log *slog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	mu     sync.RWMutex // is held for writing to end
}

func newExporter(to sdktrace.SpanExporter, log *slog.Logger) *exporter {
	e := &exporter{SpanExporter: to, log: log}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// ExportSpans implements sdktrace.SpanExporter.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.ctx, cancel)()
	if err := e.SpanExporter.ExportSpans(ctx, spans); err != nil {
		e.lost(len(spans), err)
	}
	return nil
}

func (e *exporter) lost(n int, err error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.ctx.Err() == nil {
		e.log.Warn("send traces", "lost", n, "error", err)
	}
}

// end has nothing sent or logged any more when it returns.
func (e *exporter) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cancel()
}
