package backendtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// Process tests an engine of one file in processes of their own, which are
// killed or limited. Its Main is called by TestMain.
type Process struct {
	// Open opens the file at a path.
	Open func(path string) (backend.Backend, error)
	// Roles are what else a process can do with a path, by name.
	Roles map[string]func(path string) error
}

// The test binary starts itself to have a process it can kill or limit.
const (
	roleVariable = "SKIFF_BACKENDTEST_ROLE"
	pathVariable = "SKIFF_BACKENDTEST_PATH"
)

// Main runs the tests, or what a test started the process for.
func (p Process) Main(m *testing.M) {
	roles := map[string]func(path string) error{"write": p.writeForever, "full": p.fillDisk, "open": p.openOnly}
	maps.Copy(roles, p.Roles)
	role := roles[os.Getenv(roleVariable)]
	if role == nil {
		os.Exit(m.Run())
	}
	if err := role(os.Getenv(pathVariable)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// Child is a process of the test binary that does something with the file at a
// path: "open" opens and closes it.
func Child(t *testing.T, role, path string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleVariable+"="+role, pathVariable+"="+path)
	return cmd
}

const processWriters = 16

// writeForever writes ever greater numbers under a key per writer and says
// which were acknowledged. It compacts all the while.
func (p Process) writeForever(path string) error {
	b, err := p.Open(path)
	if err != nil {
		return err
	}
	var out sync.Mutex
	errs := make(chan error)
	for w := range processWriters {
		go func() {
			key := fmt.Sprintf("/k/%02d", w)
			entry, _, err := b.Get(context.Background(), key)
			if errors.Is(err, backend.ErrNotFound) {
				err = nil
			}
			revision, n := entry.Revision, 0
			fmt.Sscan(string(entry.Value), &n)
			for err == nil {
				n++
				value := fmt.Sprintf("%d %s", n, strings.Repeat("x", 1000))
				if revision, err = b.Put(context.Background(), key, []byte(value), revision, 0); err != nil {
					break
				}
				out.Lock()
				_, err = fmt.Printf("%s %d %d\n", key, n, revision)
				out.Unlock()
				if n%50 == 0 && err == nil {
					err = b.Compact(context.Background(), revision)
				}
			}
			errs <- err
		}()
	}
	return <-errs
}

// TestKill kills a process that writes. Every acknowledged write is there,
// however often that happens; of the others at most the one each writer had under
// way.
func (p Process) TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.db")
	acknowledged := make(map[string]int)
	newest := int64(0)
	for round := range 5 {
		cmd := Child(t, "write", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		for i := 0; ; i++ {
			line, err := lines.ReadString('\n')
			if err != nil {
				break // a line cut short was not acknowledged
			}
			var key string
			var n int
			var revision int64
			if _, err := fmt.Sscan(line, &key, &n, &revision); err != nil {
				t.Fatalf("child said %q", line)
			}
			acknowledged[key] = n
			newest = max(newest, revision)
			if i == 300+100*round {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		p.check(t, path, acknowledged, newest)
	}
	if len(acknowledged) != processWriters {
		t.Errorf("%d writers had writes acknowledged, want %d", len(acknowledged), processWriters)
	}
}

func (p Process) check(t *testing.T, path string, acknowledged map[string]int, newest int64) {
	t.Helper()
	b, err := p.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if got, _ := b.Revision(t.Context()); got < newest {
		t.Errorf("revision is %d, but %d was acknowledged", got, newest)
	}
	for key, want := range acknowledged {
		entry, _, err := b.Get(t.Context(), key)
		var got int
		fmt.Sscan(string(entry.Value), &got)
		if err != nil || got < want || got > want+1 {
			t.Errorf("%s holds %d, %v; want %d, which was acknowledged, or the next", key, got, err, want)
		}
	}
}

// fillDisk writes until the disk (here: a limit on the size of files) is full.
func (p Process) fillDisk(path string) error {
	signal.Ignore(syscall.SIGXFSZ)
	b, err := p.Open(path)
	if err != nil {
		return err
	}
	defer b.Close()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 2 << 20, Max: limit.Max}); err != nil {
		return err
	}
	ctx := context.Background()
	value := []byte(strings.Repeat("x", 10_000))
	written := 0
	for ; written < 1000; written++ {
		if _, err = b.Put(ctx, fmt.Sprintf("/%04d", written), value, backend.Absent, 0); err != nil {
			break
		}
	}
	if err == nil || written < 10 {
		return fmt.Errorf("%d writes succeeded, then %v; want some and then an error", written, err)
	}
	page, err := b.List(ctx, "/", "", 0, 0)
	if err != nil || len(page.Entries) != written || page.Revision != int64(written) {
		return fmt.Errorf("with a full disk, list shows %d entries at %d, %v; want the %d acknowledged", len(page.Entries), page.Revision, err, written)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	if revision, err := b.Put(ctx, "/more", value, backend.Absent, 0); err != nil || revision != int64(written+1) {
		return fmt.Errorf("with room again, put gave %d, %v; want revision %d", revision, err, written+1)
	}
	for c, err := range b.Watch(ctx, "/more", 0) {
		if err != nil {
			return err
		}
		if c.Key == "/more" {
			return nil
		}
	}
	return errors.New("watch ended early")
}

// TestFullDisk fills the disk of a process. That refuses writes, loses nothing,
// and is no obstacle to reads nor, when there is room again, to writes.
func (p Process) TestFullDisk(t *testing.T) {
	if out, err := Child(t, "full", filepath.Join(t.TempDir(), "skiff.db")).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func (p Process) openOnly(path string) error {
	b, err := p.Open(path)
	if err != nil {
		return err
	}
	return b.Close()
}

// TestInUse opens a file in a second process, which is refused at once.
func (p Process) TestInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.db")
	b, err := p.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	start := time.Now()
	out, err := Child(t, "open", path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), backend.ErrInUse.Error()) {
		t.Errorf("second process: %v, %q; want %v", err, out, backend.ErrInUse)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the second process was refused after %v, want at once", took)
	}
}

// TestDay writes as a cluster does in a day: the status of a steady number of objects,
// with a compaction now and then that leaves a few minutes of history; and once, in the
// middle of it, a flood. The files, whose names begin with that of the database, are not
// larger in the evening than in the morning.
func (p Process) TestDay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.db")
	b, err := p.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	const writers = 20
	at := make([]int64, 200)
	update := func(size int) {
		var g sync.WaitGroup
		for w := range writers {
			g.Go(func() {
				for i := w; i < len(at); i += writers {
					var err error
					if at[i], err = b.Put(t.Context(), fmt.Sprintf("/registry/leases/%d", i), make([]byte, size), at[i], 0); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		g.Wait()
	}
	const minutes, kept, flood = 36, 5, 16
	var compact [kept]int64 // the revisions of the last minutes
	var sizes [minutes]int64
	for minute := range minutes {
		update(3_000)
		if minute == flood {
			for range 6 {
				update(50_000)
			}
			update(3_000)
		}
		if old := compact[minute%kept]; old > 0 {
			if err := b.Compact(t.Context(), old); err != nil {
				t.Fatal(err)
			}
		}
		if compact[minute%kept], err = b.Revision(t.Context()); err != nil {
			t.Fatal(err)
		}
		sizes[minute] = sizeOf(t, path)
	}
	if t.Failed() {
		return
	}
	morning, evening := sizes[2*kept], sizes[minutes-1]
	t.Logf("%d bytes in the morning, %d with the flood, %d in the evening", morning, slices.Max(sizes[:]), evening)
	if slices.Max(sizes[:]) < 3*morning {
		t.Error("the flood was none")
	}
	if evening > 2*morning {
		t.Errorf("the files grew from %d to %d bytes while their content stayed the same", morning, evening)
	}
}

// sizeOf is the size of a database and of the files beside it that belong to it.
func sizeOf(t *testing.T, path string) (size int64) {
	t.Helper()
	files, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	return size
}
