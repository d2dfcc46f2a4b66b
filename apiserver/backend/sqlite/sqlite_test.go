package sqlite_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/backendtest"
	"github.com/skiff-k8s/skiff/apiserver/backend/sqlite"
)

func TestContract(t *testing.T) {
	var dirs sync.Map // of each test, so that it can open its file again
	backendtest.Run(t, backendtest.Engine{Durable: true, Open: func(t testing.TB) backend.Backend {
		dir, _ := dirs.LoadOrStore(t.Name(), t.TempDir())
		return open(t, filepath.Join(dir.(string), "a ?%41b", "skiff.db"))
	}})
}

// process has the tests that need processes of their own.
var process = backendtest.Process{Open: func(path string) (backend.Backend, error) {
	b, err := sqlite.Open(path)
	if err != nil {
		return nil, err
	}
	return b, nil
}}

func TestMain(m *testing.M) { process.Main(m) }

func TestKill(t *testing.T)     { process.TestKill(t) }
func TestFullDisk(t *testing.T) { process.TestFullDisk(t) }
func TestDay(t *testing.T)      { process.TestDay(t) }
func TestInUse(t *testing.T)    { process.TestInUse(t) }

func BenchmarkPut(b *testing.B)    { backendtest.BenchmarkPut(b, openNew) }
func BenchmarkUpdate(b *testing.B) { backendtest.BenchmarkUpdate(b, openNew) }

func open(t testing.TB, path string) backend.Backend {
	t.Helper()
	b, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func openNew(t testing.TB) backend.Backend { return open(t, filepath.Join(t.TempDir(), "skiff.db")) }

// A file that cannot be ours is refused, with the reason, and left as it is.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string)
		want string // part of the error
	}{
		{"of another program", func(t *testing.T, path string) { execute(t, path, "CREATE TABLE songs (title TEXT)") }, "database of another program"},
		{"marked by another program", func(t *testing.T, path string) { execute(t, path, "PRAGMA application_id = 7") }, "database of another program"},
		{"not a database", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("songs\n", 1000)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a database"},
		{"of another layout", func(t *testing.T, path string) {
			if err := open(t, path).Close(); err != nil {
				t.Fatal(err)
			}
			execute(t, path, "UPDATE skiff_meta SET layout = 2")
		}, "the layout of the tables is 2, this version reads 1"},
		{"in use", func(t *testing.T, path string) {
			b := open(t, path)
			t.Cleanup(func() { b.Close() })
		}, backend.ErrInUse.Error()},
		{"a directory", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "open"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "skiff.db")
			c.make(t, path)
			before, _ := os.ReadFile(path)
			b, err := sqlite.Open(path)
			if err == nil {
				b.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("open: got %v, want an error with %q", err, c.want)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("the file was changed")
			}
		})
	}
}

func execute(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

// Only the owner can read what is stored.
func TestMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.db")
	b := open(t, path)
	defer b.Close()
	if _, err := b.Put(t.Context(), "/a", nil, backend.Absent, 0); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) < 3 {
		t.Fatalf("got the files %v, %v, want the database, its log and its lock", files, err)
	}
	for _, name := range files {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v, want 0600", name, info.Mode(), err)
		}
	}
}

// Compacted history gives its space back: what is written for ever and compacted
// now and then stops growing, and what was large once becomes small again.
func TestFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.db")
	b := open(t, path)
	defer b.Close()
	size := func() (sum int64) {
		for _, suffix := range []string{"", "-wal"} {
			info, err := os.Stat(path + suffix)
			if err != nil {
				t.Fatal(err)
			}
			sum += info.Size()
		}
		return sum
	}
	write := func(rounds int) {
		for range rounds {
			update(t, b, 20, 100)
			compact(t, b)
		}
	}
	write(5)
	early := size()
	write(25)
	if late := size(); late > early*5/4 {
		t.Errorf("the files grew from %d to %d bytes while their content stayed the same", early, late)
	}
	update(t, b, 20, 2000)
	large := size()
	compact(t, b)
	write(1)
	if small := size(); small > large/2 {
		t.Errorf("the files shrank from %d to %d bytes when 99 of 100 writes were forgotten", large, small)
	}
}

// update writes keys, 10,000 bytes each time.
func update(t *testing.T, b backend.Backend, keys, writes int) {
	t.Helper()
	value := make([]byte, 10_000)
	var wg sync.WaitGroup
	for k := range keys {
		wg.Go(func() {
			key := fmt.Sprintf("/k/%d", k)
			entry, _, err := b.Get(t.Context(), key)
			if errors.Is(err, backend.ErrNotFound) {
				err = nil
			}
			for at, n := entry.Revision, 0; n < writes/keys && err == nil; n++ {
				at, err = b.Put(t.Context(), key, value, at, 0)
			}
			if err != nil {
				t.Errorf("update %s: %v", key, err)
			}
		})
	}
	wg.Wait()
}

func compact(t *testing.T, b backend.Backend) {
	t.Helper()
	revision, err := b.Revision(t.Context())
	if err == nil {
		err = b.Compact(t.Context(), revision)
	}
	if err != nil {
		t.Fatal(err)
	}
}
