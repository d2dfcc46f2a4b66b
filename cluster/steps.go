package cluster

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progress tells the person at the terminal what is being done and how long
// each step took. It may be used concurrently.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	begun time.Time
}

func newProgress(out io.Writer) *progress { return &progress{out: out, begun: time.Now()} }

// step runs f and says how long it took, or how it failed.
func (p *progress) step(what string, f func() error) error {
	begin := time.Now()
	err := f()
	took := time.Since(begin).Round(time.Millisecond)
	if err != nil {
		p.say("✗ %-44s %8v  %v", what, took, err)
		return fmt.Errorf("%s: %w", what, err)
	}
	p.say("✓ %-44s %8v", what, took)
	return nil
}

func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// elapsed is the time since the start, rounded for people.
func (p *progress) elapsed() time.Duration { return time.Since(p.begun).Round(time.Millisecond) }
