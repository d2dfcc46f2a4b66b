package server

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const sample = `2026-01-01T00:00:01.5Z stdout F one
2026-01-01T00:00:02.000000001Z stderr F two
2026-01-01T00:00:03Z stdout P three, 
2026-01-01T00:00:03.1Z stdout F continued
2026-01-01T00:00:04+02:00 stdout F four
`

func TestCopyLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(sample), 0o644); err != nil {
		t.Fatal(err)
	}
	all := logOptions{tail: -1, limit: -1}
	with := func(change func(*logOptions)) logOptions {
		o := all
		change(&o)
		return o
	}
	for _, test := range []struct {
		name    string
		options logOptions
		want    string
	}{
		{"all", all, "one\ntwo\nthree, continued\nfour\n"},
		{"last two lines", with(func(o *logOptions) { o.tail = 2 }), "continued\nfour\n"},
		{"more lines than there are", with(func(o *logOptions) { o.tail = 100 }), "one\ntwo\nthree, continued\nfour\n"},
		{"no lines", with(func(o *logOptions) { o.tail = 0 }), ""},
		{"bytes", with(func(o *logOptions) { o.limit = 6 }), "one\ntw"},
		{"since", with(func(o *logOptions) { o.since = time.Date(2026, 1, 1, 0, 0, 3, 0, time.UTC) }), "three, continued\n"},
		{"errors", with(func(o *logOptions) { o.stream = "stderr" }), "two\n"},
		{"timestamps", with(func(o *logOptions) { o.timestamps = true }),
			"2026-01-01T00:00:01.500000000Z one\n2026-01-01T00:00:02.000000001Z two\n2026-01-01T00:00:03.000000000Z three, continued\n2026-01-01T00:00:04.000000000+02:00 four\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := copyLog(t.Context(), path, test.options, &out, func() {}, nil); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestTailOfLongLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	var text strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&text, "2026-01-01T00:00:00Z stdout F line %d %s\n", i, strings.Repeat("x", 100))
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{1, 400, 1000, 4999, 5000, 6000} {
		var out bytes.Buffer
		if err := copyLog(t.Context(), path, logOptions{tail: n, limit: -1}, &out, func() {}, nil); err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(out.String(), " x")
		want := fmt.Sprintf("line %d", max(5000-n, 0))
		if got := int64(strings.Count(out.String(), "\n")); got != min(n, 5000) || first != want {
			t.Errorf("tail %d: got %d lines from %q, want from %q", n, got, first, want)
		}
	}
}

// safeBuffer is written and read at once.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *safeBuffer) waitFor(t *testing.T, want string) {
	t.Helper()
	for range 300 {
		if s.String() == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("got %q within 3 s, want %q", s.String(), want)
}

func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	var runs atomic.Bool
	runs.Store(true)
	running := func(context.Context) (bool, error) { return runs.Load(), nil }
	var out safeBuffer
	file := open()
	ended := make(chan error)
	go func() {
		ended <- copyLog(t.Context(), path, logOptions{tail: -1, limit: -1, follow: true}, &out, func() {}, running)
	}()

	fmt.Fprint(file, "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z std")
	out.waitFor(t, "one\n")
	fmt.Fprint(file, "out F two\n")
	out.waitFor(t, "one\ntwo\n")

	// The kubelet renames the file, the runtime writes on until told to open the new one.
	if err := os.Rename(path, path+".20260101"); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(file, "2026-01-01T00:00:03Z stdout F three\n")
	out.waitFor(t, "one\ntwo\nthree\n")
	fmt.Fprint(file, "2026-01-01T00:00:03Z stdout F late\n")
	file.Close()
	file = open()
	fmt.Fprint(file, "2026-01-01T00:00:04Z stdout F four\n")
	out.waitFor(t, "one\ntwo\nthree\nlate\nfour\n")

	runs.Store(false)
	fmt.Fprint(file, "2026-01-01T00:00:05Z stdout F last\n")
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(3 * time.Second):
		t.Fatal("following did not end within 3 s of the container's end")
	}
	out.waitFor(t, "one\ntwo\nthree\nlate\nfour\nlast\n")
}

func TestFollowEndsWithItsReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	running := func(context.Context) (bool, error) { return true, nil }
	if err := copyLog(ctx, path, logOptions{tail: -1, limit: -1, follow: true}, &bytes.Buffer{}, func() {}, running); err != nil {
		t.Error(err)
	}
}

func TestLogContainer(t *testing.T) {
	ran := v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ContainerID: "containerd://old"}}
	waits := func(reason string) v1.ContainerState {
		return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}}
	}
	runs := v1.ContainerState{Running: &v1.ContainerStateRunning{}}
	for _, test := range []struct {
		name        string
		state, last v1.ContainerState
		previous    bool
		want, err   string
	}{
		{name: "running", state: runs, last: ran, want: "containerd://new"},
		{name: "previous", state: runs, last: ran, previous: true, want: "containerd://old"},
		{name: "no previous", state: runs, previous: true, err: `previous terminated container "c" in pod "p" not found`},
		{name: "terminated", state: ran, want: "containerd://old"},
		{name: "between runs", state: waits("CrashLoopBackOff"), last: ran, want: "containerd://old"},
		{name: "never ran", state: waits("ContainerCreating"), err: `container "c" in pod "p" is waiting to start: ContainerCreating`},
		{name: "no image", state: waits("ImagePullBackOff"), err: `container "c" in pod "p" is waiting to start: trying and failing to pull image`},
		{name: "failed to start", state: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{}}, err: `container "c" in pod "p" is terminated`},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{
				{Name: "c", ContainerID: "containerd://new", State: test.state, LastTerminationState: test.last},
			}}}
			got, err := logContainer(pod, "c", test.previous)
			if err != nil != (test.err != "") || err != nil && err.Error() != test.err || got != test.want {
				t.Errorf("got %q, %v; want %q, %s", got, err, test.want, test.err)
			}
		})
	}
}

// TestHostileLogs has a container with the log directory mounted replace its log.
func TestHostileLogs(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "logs", "pod", "c")
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(top, "secret"), []byte("2026-01-01T00:00:00Z stdout F host\n"), 0o600),
		os.Symlink(filepath.Join(top, "secret"), in("link")),
		unix.Mkfifo(in("fifo"), 0o600),
		os.WriteFile(in("sparse"), nil, 0o600),
		os.Truncate(in("sparse"), 2<<30),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"link": "too many levels of symbolic links", "fifo": "is not a regular file", "sparse": "a log line has more than 1048576 bytes",
	} {
		var out bytes.Buffer
		err := copyLog(t.Context(), in(name), logOptions{tail: -1, limit: -1}, &out, func() {}, nil)
		if err == nil || !strings.Contains(err.Error(), want) || out.Len() > 0 {
			t.Errorf("%s: error %v and %q, want %q", name, err, out.String(), want)
		}
	}
}

// FuzzCopyLog gives the reader what may stand in a log.
func FuzzCopyLog(f *testing.F) {
	f.Add([]byte("2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr P tw\n2026-01-01T00:00:00Z stderr F o\n"), int64(2), int64(3))
	f.Add([]byte("  P\n2026-01-01T00:00:00Z   \n"), int64(-1), int64(-1))
	f.Fuzz(func(t *testing.T, data []byte, tail, limit int64) {
		path := filepath.Join(t.TempDir(), "0.log")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		tail, limit = max(tail, -1), max(limit, -1)
		var out bytes.Buffer
		err := copyLog(t.Context(), path, logOptions{tail: tail, limit: limit, timestamps: true}, &out, func() {}, nil)
		if limit >= 0 && int64(out.Len()) > limit {
			t.Errorf("wrote %d bytes (%v), want at most %d", out.Len(), err, limit)
		}
	})
}
