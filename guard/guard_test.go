package guard

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestCall(t *testing.T) {
	Panics.DeletePartialMatch(prometheus.Labels{"part": "test"})
	var p *Panic
	err := Call("test", func() error { panic("oh") })
	if !errors.As(err, &p) || err.Error() != "test: panic: oh" || !strings.Contains(p.Stack, "TestCall") {
		t.Errorf("got %v with stack %q", err, p.Stack)
	}
	if err := Call("test", func() error { panic(io.EOF) }); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want one that is io.EOF", err)
	}
	if got := counted(t); got != 2 {
		t.Errorf("counted %v panics, want 2", got)
	}
	if err := Call("test", func() error { return io.EOF }); err != io.EOF {
		t.Errorf("got %v, want io.EOF as it is", err)
	}
}

// counted is how many panics of the part "test" were counted.
func counted(t *testing.T) (n float64) {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(Panics)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if metric.GetLabel()[0].GetValue() == "test" {
				n += metric.GetCounter().GetValue()
			}
		}
	}
	return n
}

func TestGroupTellsItsComponent(t *testing.T) {
	failed := make(chan error, 2)
	g := Group{Failed: func(err error) { failed <- err }}
	g.Go("quiet", func() {})
	g.Go("loud", func() { panic("oh") })
	g.Wait()
	if err := <-failed; err.Error() != "loud: panic: oh" || len(failed) > 0 {
		t.Errorf("got %v and %d more", err, len(failed))
	}
}

func TestKeepStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, runs := time.Now(), 0
		err := Keep(t.Context(), "test", func(context.Context) error {
			if runs++; runs < 4 {
				panic("oh")
			}
			return io.EOF
		})
		if err != io.EOF || runs != 4 || time.Since(begin) != 7*time.Second {
			t.Errorf("got %v after %d runs in %s, want EOF after 4 in 7s", err, runs, time.Since(begin))
		}
	})
}

func TestKeepEndsWithItsContext(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	if err := Keep(ctx, "test", func(context.Context) error { stop(); panic("oh") }); err != nil {
		t.Errorf("got %v, want no error", err)
	}
}

func TestAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ran atomic.Bool
		After(time.Hour, "test", func() { ran.Store(true); panic("oh") })
		time.Sleep(time.Hour - time.Nanosecond)
		synctest.Wait()
		if ran.Load() {
			t.Error("ran before its time")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if !ran.Load() {
			t.Error("has not run in time")
		}
	})
}
