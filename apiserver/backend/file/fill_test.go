package file_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/backendtest"
	"github.com/skiff-k8s/skiff/apiserver/backend/file"
)

// endless says how many entries were taken from it, every thousand.
func endless(yield func(backend.Entry) bool) {
	value := make([]byte, 10_000)
	for n := int64(1); yield(backend.Entry{Key: fmt.Sprintf("/%08d", n), Value: value, Revision: n}); n++ {
		if n%1000 == 0 {
			fmt.Println(n)
		}
	}
}

func loadForever(path string) error {
	b, err := file.Open(path)
	if err != nil {
		return err
	}
	return b.Load(context.Background(), endless, 1<<40, 1<<40)
}

// A load that was killed leaves a file that nobody takes for a whole one.
func TestKilledLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.db")
	cmd := backendtest.Child(t, "load", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines, n := bufio.NewScanner(out), 0; n < 3 && lines.Scan(); n++ {
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	b, err := file.Open(path)
	if !errors.Is(err, backend.ErrPartial) {
		t.Errorf("opening what a killed load left: %v, want %v", err, backend.ErrPartial)
	}
	if err == nil {
		b.Close()
	}
}

// A load that was interrupted is no state either, in its process or in the next.
func TestInterruptedLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.db")
	b, err := file.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = b.Load(ctx, func(yield func(backend.Entry) bool) {
		yield(backend.Entry{Key: "/a", Value: []byte{}, Revision: 1})
		cancel()
	}, 1, 1)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("load: %v", err)
	}
	if _, err := b.Put(t.Context(), "/b", nil, backend.Absent, 0); !errors.Is(err, backend.ErrPartial) {
		t.Errorf("put: %v, want %v", err, backend.ErrPartial)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := file.Open(path); !errors.Is(err, backend.ErrPartial) {
		t.Errorf("open: %v, want %v", err, backend.ErrPartial)
	}
}
