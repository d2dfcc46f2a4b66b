package envtest

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// test takes the place of a test where a suite starts an environment. Of testing.TB it has what package skifftest calls.
type test struct {
	testing.TB
	out io.Writer // of the server; nil: nobody reads it

	mu       sync.Mutex
	cleanups []func()
	errs     []error
}

// Helper is part of testing.TB.
func (*test) Helper() {}

// Cleanup is part of testing.TB.
func (t *test) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

// Logf is part of testing.TB.
func (t *test) Logf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.out != nil {
		fmt.Fprintf(t.out, format+"\n", args...)
	}
}

// Errorf is part of testing.TB.
func (t *test) Errorf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.errs = append(t.errs, fmt.Errorf(format, args...))
}

// Fatalf is part of testing.TB.
func (t *test) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	runtime.Goexit()
}

// run calls a function, and returns what was wrong.
func (t *test) run(f func()) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
	t.mu.Lock()
	defer t.mu.Unlock()
	err := errors.Join(t.errs...)
	t.errs = nil
	return err
}

// end calls what is to be called at the end of the test, the latest first.
func (t *test) end() error {
	t.mu.Lock()
	cleanups := t.cleanups
	t.cleanups = nil
	t.mu.Unlock()
	return t.run(func() {
		for _, f := range slices.Backward(cleanups) {
			f()
		}
	})
}
