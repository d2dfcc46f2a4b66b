package untrusted

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// must fails the test for an error of its preparation.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// hostile is a directory with what a container may put there, beside a file of the host.
func hostile(t *testing.T) (dir string) {
	top := t.TempDir()
	dir = filepath.Join(top, "volume")
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t,
		os.Mkdir(dir, 0o755),
		os.WriteFile(filepath.Join(top, "secret"), []byte("host"), 0o600),
		os.WriteFile(in("file"), []byte("own"), 0o644),
		os.Mkdir(in("dir"), 0o755),
		os.WriteFile(in("dir/file"), []byte("deep"), 0o644),
		os.Symlink("file", in("link")),
		os.Symlink("/file", in("rooted")),
		os.Symlink("dir", in("dirlink")),
		os.Symlink(filepath.Join(top, "secret"), in("absolute")),
		os.Symlink("../secret", in("upwards")),
		os.Symlink("..", in("parent")),
		os.Symlink("/proc/self/root"+top+"/secret", in("magic")),
		os.Symlink("loop", in("loop")),
		unix.Mkfifo(in("fifo"), 0o644),
		os.Symlink("fifo", in("fifolink")),
		unix.Mknod(in("device"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))), // /dev/zero
	)
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err, unix.Bind(socket, &unix.SockaddrUnix{Name: in("socket")}))
	t.Cleanup(func() { unix.Close(socket) })
	must(t, os.WriteFile(in("sparse"), nil, 0o644), os.Truncate(in("sparse"), 2<<30))
	return dir
}

func TestOpen(t *testing.T) {
	dir := hostile(t)
	const none = ""
	for path, want := range map[string]struct{ exact, within string }{
		"file":     {"own", "own"},
		"dir/file": {"deep", "deep"},
		"link":     {none, "own"},
		"rooted":   {none, "own"}, // the volume is the root
		"dirlink/file": {
			none, "deep",
		},
		"absolute":      {},
		"upwards":       {},
		"parent/secret": {},
		"../secret":     {"host", none}, // by its text not below the directory: opened without any links
		"magic":         {},
		"loop":          {},
		"fifo":          {},
		"fifolink":      {},
		"device":        {},
		"socket":        {},
		"dir":           {},
		"missing":       {},
	} {
		t.Run(path, func(t *testing.T) {
			try := func(name, want string, f *os.File, err error) {
				t.Helper()
				if err != nil {
					if want != none {
						t.Errorf("%s: %v, want %q", name, err, want)
					}
					return
				}
				defer f.Close()
				if got, err := io.ReadAll(io.LimitReader(f, 100)); err != nil || want == none || string(got) != want {
					t.Errorf("%s: read %q (%v), want %q", name, got, err, want)
				}
			}
			f, err := Open(dir, filepath.Join(dir, path))
			try("Open", want.exact, f, err)
			f, err = OpenWithin(dir, path)
			try("OpenWithin", want.within, f, err)
		})
	}
	for _, path := range []string{"fifo", "device", "socket", "dir"} {
		if _, err := OpenWithin(dir, path); !errors.Is(err, ErrNotRegular) {
			t.Errorf("%s: error %v, want that it is not a regular file", path, err)
		}
	}
}

func TestRootIsTrusted(t *testing.T) {
	dir := hostile(t)
	link := filepath.Join(t.TempDir(), "moved")
	must(t, os.Symlink(dir, link))
	f, err := Open(link, filepath.Join(link, "file"))
	if err != nil {
		t.Fatalf("below a root that is a link: %v", err)
	}
	f.Close()
	if f, err := Open("/elsewhere", filepath.Join(link, "file")); err == nil {
		f.Close()
		t.Error("opened through a link that is in no root")
	}
}

func opener(dir, path string) func() (*os.File, error) {
	return func() (*os.File, error) { return OpenWithin(dir, path) }
}

// allocated is how many bytes f takes from the heap.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestReadIsLimited(t *testing.T) {
	dir := hostile(t)
	used := allocated(func() {
		if _, err := ReadAll(t.Context(), dir, 1<<20, opener(dir, "sparse")); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
			t.Errorf("2 GiB: %v, want an error", err)
		}
		if data, err := Tail(t.Context(), dir, 4096, opener(dir, "sparse")); err != nil || len(data) != 4096 {
			t.Errorf("end of 2 GiB: %d bytes (%v), want 4096", len(data), err)
		}
	})
	if used > 16<<20 {
		t.Errorf("reading took %d MiB of the heap", used>>20)
	}
	if data, err := ReadAll(t.Context(), dir, 3, opener(dir, "file")); err != nil || string(data) != "own" {
		t.Errorf("as much as is allowed: %q (%v)", data, err)
	}
	if data, err := Tail(t.Context(), dir, 2, opener(dir, "file")); err != nil || string(data) != "wn" {
		t.Errorf("end: %q (%v), want wn", data, err)
	}
}

func TestHungCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		calls := 0
		hang := func() (int, error) {
			calls++
			<-answer
			return 7, nil
		}
		for range 5 {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := Await(ctx, t.Name(), hang); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want that the context ended", err)
			}
		}
		began := time.Now()
		if _, err := Await(t.Context(), t.Name(), hang); err == nil || time.Since(began) != patience {
			t.Errorf("error %v after %v, want one after %v", err, time.Since(began), patience)
		}
		time.AfterFunc(time.Second, func() { close(answer) })
		if got, err := Await(t.Context(), t.Name(), hang); err != nil || got != 7 || calls != 1 {
			t.Errorf("got %d (%v) of %d calls, want 7 of the one that hung", got, err, calls)
		}
	})
}

func TestWalk(t *testing.T) {
	dir := hostile(t)
	var names []string
	err := Walk(t.Context(), dir, func(e *Entry) error {
		names = append(names, filepath.Base(e.name))
		return nil
	})
	slices.Sort(names)
	want := []string{"absolute", "device", "dir", "dirlink", "fifo", "fifolink", "file", "file", "link", "loop", "magic", "parent", "rooted", "socket", "sparse", "upwards", "volume"}
	if diff := cmp.Diff(want, names); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	seen := 0
	must(t, Walk(t.Context(), dir, func(*Entry) error { seen++; return fs.SkipAll }))
	must(t, Walk(t.Context(), dir, func(*Entry) error { seen++; return fs.SkipDir }))
	if seen != 2 {
		t.Errorf("saw %d entries of two walks that end with their root", seen)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := Walk(ctx, dir, func(*Entry) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that the context ended", err)
	}
}

// TestModesStayInside exchanges a file for a link to one of the host just before its mode is set.
func TestModesStayInside(t *testing.T) {
	dir := hostile(t)
	secret := filepath.Join(filepath.Dir(dir), "secret")
	path := filepath.Join(dir, "file")
	err := Walk(t.Context(), dir, func(e *Entry) error {
		if e.name != "file" {
			return nil
		}
		if err := os.Remove(path); err == nil {
			must(t, os.Symlink(secret, path))
		}
		must(t, e.Own(1, 1))
		if err := e.SetMode(0o666); !errors.Is(err, unix.ESTALE) {
			t.Errorf("error %v, want that the file is another one", err)
		}
		return fs.SkipAll
	})
	must(t, err)
	var stat unix.Stat_t
	must(t, unix.Stat(secret, &stat))
	if stat.Mode&0o777 != 0o600 || stat.Uid != 0 {
		t.Errorf("the host's file has mode %o and owner %d", stat.Mode&0o777, stat.Uid)
	}
}

// TestWalkStaysInside exchanges a directory for a link to one of the host, after it was seen and before it is entered.
func TestWalkStaysInside(t *testing.T) {
	dir := hostile(t)
	path := filepath.Join(dir, "dir")
	exchanged := false
	must(t, Walk(t.Context(), dir, func(e *Entry) error {
		switch {
		case e.name == "dir" && !exchanged:
			must(t, os.Rename(path, path+"-gone"), os.Symlink(filepath.Dir(dir), path))
			exchanged = true
		case e.name == "secret":
			t.Error("the walk sees a file of the host")
		}
		return nil
	}))
	if !exchanged {
		t.Error("the directory was not seen")
	}
}

// deep makes directories nested so deep that no path names the last, with a file in each.
func deep(t *testing.T, dir string, levels int) {
	t.Helper()
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	for range levels {
		must(t, unix.Mkdirat(at, "d", 0o755), unix.Mknodat(at, "f", unix.S_IFREG|0o644, 0))
		next, err := unix.Openat(at, "d", unix.O_PATH|unix.O_DIRECTORY, 0)
		must(t, err, unix.Close(at))
		at = next
	}
	must(t, unix.Close(at))
}

func TestDeepTrees(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pod")
	must(t, os.Mkdir(dir, 0o755))
	deep(t, dir, 2500)
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	fewer := limit
	fewer.Cur = 256
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &fewer))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) }()

	seen := 0
	if err := Walk(t.Context(), dir, func(*Entry) error { seen++; return nil }); err != nil || seen < 3000 {
		t.Errorf("walk saw %d files (%v), want those that a path can name", seen, err)
	}
	if err := Remove(t.Context(), dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after removal: %v, want that nothing is left", err)
	}
}

func TestRemove(t *testing.T) {
	dir := hostile(t)
	must(t, Remove(t.Context(), dir), Remove(t.Context(), dir), Remove(t.Context(), filepath.Join(dir, "no", "such")))
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(entries) != 1 || entries[0].Name() != "secret" {
		t.Errorf("left: %v (%v), want what is outside", entries, err)
	}
}

func TestFS(t *testing.T) {
	dir := hostile(t)
	for name, want := range map[string]error{
		"file": nil, "dir/file": nil, "dir": nil, ".": nil,
		"missing": fs.ErrNotExist, "../secret": fs.ErrInvalid,
		"absolute": fs.ErrPermission, "parent/secret": fs.ErrPermission, "dirlink": fs.ErrPermission,
		"fifo": fs.ErrPermission, "device": fs.ErrPermission,
	} {
		f, err := FS(dir).Open(name)
		if !errors.Is(err, want) {
			t.Errorf("%s: error %v, want %v", name, err, want)
		}
		if err == nil {
			f.Close()
		}
	}
	entries, err := fs.ReadDir(FS(dir), ".")
	if err != nil || len(entries) < 10 {
		t.Errorf("listed %v (%v)", entries, err)
	}
}
