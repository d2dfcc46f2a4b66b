package file_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/file"
)

// The test binary starts itself to have a process it can kill or limit.
const (
	roleVariable = "SKIFF_FILE_TEST_ROLE"
	pathVariable = "SKIFF_FILE_TEST_PATH"
)

func TestMain(m *testing.M) {
	role := map[string]func(path string) error{"write": writeForever, "full": fillDisk, "open": openOnly, "load": loadForever}[os.Getenv(roleVariable)]
	if role == nil {
		os.Exit(m.Run())
	}
	if err := role(os.Getenv(pathVariable)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func child(t *testing.T, role, path string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleVariable+"="+role, pathVariable+"="+path)
	return cmd
}

const writers = 16

// writeForever writes ever greater numbers under a key per writer and says
// which were acknowledged. It compacts all the while.
func writeForever(path string) error {
	b, err := file.Open(path)
	if err != nil {
		return err
	}
	var out sync.Mutex
	errs := make(chan error)
	for w := range writers {
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

// Every acknowledged write is there after kill -9, however often that happens;
// of the others at most the one each writer had under way.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.db")
	acknowledged := make(map[string]int)
	newest := int64(0)
	for round := range 5 {
		cmd := child(t, "write", path)
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
		check(t, path, acknowledged, newest)
	}
	if len(acknowledged) != writers {
		t.Errorf("%d writers had writes acknowledged, want %d", len(acknowledged), writers)
	}
}

func check(t *testing.T, path string, acknowledged map[string]int, newest int64) {
	t.Helper()
	b, err := file.Open(path)
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
func fillDisk(path string) error {
	signal.Ignore(syscall.SIGXFSZ)
	b, err := file.Open(path)
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

// A full disk refuses writes, loses nothing, and is no obstacle to reads nor,
// when there is room again, to writes.
func TestFullDisk(t *testing.T) {
	if out, err := child(t, "full", filepath.Join(t.TempDir(), "skiff.db")).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func openOnly(path string) error {
	b, err := file.Open(path)
	if err != nil {
		return err
	}
	return b.Close()
}

// The second process that opens a file is refused at once.
func TestInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.db")
	b, err := file.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	start := time.Now()
	out, err := child(t, "open", path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), backend.ErrInUse.Error()) {
		t.Errorf("second process: %v, %q; want %v", err, out, backend.ErrInUse)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the second process was refused after %v, want at once", took)
	}
}

// What is no database of ours is an error, not overwritten.
func TestForeignFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.db")
	const content = "this is not a database, but somebody wants to keep it\n"
	if err := os.WriteFile(path, []byte(strings.Repeat(content, 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := file.Open(path); err == nil {
		b.Close()
		t.Fatal("a text file was opened as a database")
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, _ := io.ReadAll(f); string(got) != strings.Repeat(content, 1000) {
		t.Error("the file was changed")
	}
}

// A file that was cut short or partly overwritten is refused, however much of
// it is left, and the process lives to say so.
func TestDamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.db")
	b, err := file.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	for i := range 100 {
		if _, err := b.Put(t.Context(), fmt.Sprintf("/k/%d", i), make([]byte, 2*page), backend.Absent, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(sound)
	for at := 2 * page; at+page <= len(damaged); at += 2 * page { // the first two pages are described by checksums of their own
		clear(damaged[at : at+page])
	}
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"two pages left", sound[:2*page]},
		{"cut in a page", sound[:5*page+1]},
		{"cut in half", sound[:len(sound)/2]},
		{"every other page overwritten", damaged},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "skiff.db")
			if err := os.WriteFile(path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := child(t, "open", path).CombinedOutput()
			if err == nil || !strings.Contains(string(out), file.ErrDamaged.Error()) || strings.Contains(string(out), "goroutine") {
				t.Errorf("got %v, %q; want %v", err, out, file.ErrDamaged)
			}
			if left, err := os.ReadFile(path); err != nil || !bytes.Equal(left, c.data) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}
