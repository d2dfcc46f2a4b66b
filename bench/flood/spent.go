package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// spent is what a server has spent on the renewals of leases, by its own metrics.
type spent struct{ serving, waiting times }

// times is a sum of times, and how many they are.
type times struct{ seconds, count float64 }

func (t times) String() string {
	if t.count == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f ms", t.seconds/t.count*1000)
}

func (t times) since(before times) times {
	return times{t.seconds - before.seconds, t.count - before.count}
}

func (s spent) since(before spent) spent {
	return spent{s.serving.since(before.serving), s.waiting.since(before.waiting)}
}

// spent reads the metrics. The wait for a seat is that of all requests at the level of leases, which hardly has others.
func (w *world) spent(ctx context.Context) (spent, error) {
	text, err := w.admin.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return spent{}, err
	}
	return spent{
		serving: sum(string(text), "apiserver_request_duration_seconds", `resource="leases"`, `verb="PUT"`),
		waiting: sum(string(text), "apiserver_flowcontrol_request_wait_duration_seconds", `flow_schema="system-node-high"`),
	}, nil
}

// sum adds the histograms of a name up that have these labels.
func sum(text, name string, labels ...string) (t times) {
	for line := range strings.Lines(text) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		what, ok := strings.CutPrefix(series, name)
		if !ok || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(series, l) }) {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		switch {
		case err != nil:
		case strings.HasPrefix(what, "_sum{"):
			t.seconds += n
		case strings.HasPrefix(what, "_count{"):
			t.count += n
		}
	}
	return t
}
