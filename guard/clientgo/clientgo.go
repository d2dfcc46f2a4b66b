// Package clientgo guards the goroutines of client-go and what they call in components.
package clientgo

import (
	"context"
	"log/slog"
	"runtime/debug"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/guard"
)

// Survive makes panics in goroutines of client-go cost what they cost in ours. Those are its reflectors and its
// queues; without this, it ends the process. It is for the start of a program.
func Survive() {
	utilruntime.ReallyCrash = false
	utilruntime.PanicHandlers = []func(context.Context, any){func(ctx context.Context, cause any) {
		guard.Panics.WithLabelValues("client-go").Inc()
		slog.ErrorContext(ctx, "panic", "part", "client-go", "panic", cause, "stack", string(debug.Stack()))
	}}
}

// Handler makes each event a unit of work: one that panics is skipped, the next are delivered.
func Handler(part string, h cache.ResourceEventHandler) cache.ResourceEventHandler {
	return handler{part, h}
}

type handler struct {
	part string
	to   cache.ResourceEventHandler
}

func (h handler) OnAdd(obj any, initial bool) { guard.Do(h.part, func() { h.to.OnAdd(obj, initial) }) }
func (h handler) OnUpdate(old, obj any)       { guard.Do(h.part, func() { h.to.OnUpdate(old, obj) }) }
func (h handler) OnDelete(obj any)            { guard.Do(h.part, func() { h.to.OnDelete(obj) }) }
