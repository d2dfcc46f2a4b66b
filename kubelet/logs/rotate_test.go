package logs

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestRotate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	reopened := 0
	r := &Rotator{MaxSize: 10, MaxFiles: 3, Reopen: func(context.Context, string) error {
		reopened++
		return os.WriteFile(path, nil, 0o640)
	}}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for round, size := range []int{5, 20, 20, 20, 20} {
		if err := os.WriteFile(path, bytes.Repeat([]byte{byte('0' + round)}, size), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := r.Rotate(t.Context(), Log{ContainerID: "id", Path: path}, at.Add(time.Duration(round)*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if reopened != 4 {
		t.Errorf("log was reopened %d times, want 4: a small log stays", reopened)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{"0.log", "0.log.20260102-030705.gz", "0.log.20260102-030805"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	f, err := os.Open(filepath.Join(dir, want[1]))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(z); err != nil || string(text) != "33333333333333333333" {
		t.Errorf("compressed log holds %q (%v)", text, err)
	}
}

func TestRotateTakesBackWhenTheRuntimeDoesNotReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, make([]byte, 20), 0o640); err != nil {
		t.Fatal(err)
	}
	r := &Rotator{MaxSize: 10, Reopen: func(context.Context, string) error { return errors.New("down") }}
	if err := r.Rotate(t.Context(), Log{Path: path}, time.Now()); err == nil {
		t.Error("rotation without reopening is no error")
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 20 {
		t.Errorf("the log is not where the container writes it: %v", err)
	}
}

func TestRotateFinishesWhatWasCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	reopened := false
	r := &Rotator{Reopen: func(context.Context, string) error { reopened = true; return nil }}
	if err := r.Rotate(t.Context(), Log{Path: path}, time.Now()); err != nil || !reopened {
		t.Errorf("missing log: reopened %v, error %v", reopened, err)
	}
}

// TestRotateStaysInside has a container with the log directory mounted put links and FIFOs there.
func TestRotateStaysInside(t *testing.T) {
	top := t.TempDir()
	victim, dir := filepath.Join(top, "victim"), filepath.Join(top, "logs", "pod", "c")
	path := filepath.Join(dir, "0.log")
	elsewhere := filepath.Join(top, "logs", "pod", "elsewhere")
	outside := filepath.Join(top, "outside")
	for _, err := range []error{
		os.MkdirAll(dir, 0o755), os.Mkdir(outside, 0o755),
		os.WriteFile(victim, []byte("host"), 0o600),
		os.WriteFile(filepath.Join(outside, "0.log"), make([]byte, 20), 0o600),
		os.WriteFile(path, make([]byte, 20), 0o600),
		os.WriteFile(path+".20260101-000000", []byte("old"), 0o600),
		os.Symlink(victim, path+".20260101-000000.tmp"),
		os.Symlink(victim, path+".20260101-000001"),
		unix.Mkfifo(path+".20260101-000002", 0o600),
		os.Symlink(outside, elsewhere),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r := &Rotator{MaxSize: 10, MaxFiles: 9, Reopen: func(context.Context, string) error { return nil }}
	if err := r.Rotate(t.Context(), Log{ContainerID: "id", Path: path}, time.Now()); err != nil {
		t.Error(err)
	}
	if err := r.Rotate(t.Context(), Log{ContainerID: "id", Path: filepath.Join(elsewhere, "0.log")}, time.Now()); err == nil {
		t.Error("rotated through a link that leads out")
	}
	if err := Remove(filepath.Join(elsewhere, "0.log")); err != nil {
		t.Error(err)
	}
	for file, size := range map[string]int64{victim: 4, filepath.Join(outside, "0.log"): 20, path + ".20260101-000000.gz": 27} {
		if info, err := os.Stat(file); err != nil || info.Size() != size {
			t.Errorf("%s: %v (%v), want %d bytes", file, info, err, size)
		}
	}
	if err := Remove(path); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left after removal: %v (%v)", left, err)
	}
}
