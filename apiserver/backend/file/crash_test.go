package file_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/backendtest"
	"github.com/skiff-k8s/skiff/apiserver/backend/file"
)

// process has the tests that need processes of their own.
var process = backendtest.Process{
	Open: func(path string) (backend.Backend, error) {
		b, err := file.Open(path)
		if err != nil {
			return nil, err
		}
		return b, nil
	},
	Roles: map[string]func(string) error{"load": loadForever},
}

func TestMain(m *testing.M) { process.Main(m) }

func TestKill(t *testing.T)     { process.TestKill(t) }
func TestFullDisk(t *testing.T) { process.TestFullDisk(t) }
func TestDay(t *testing.T)      { process.TestDay(t) }
func TestInUse(t *testing.T)    { process.TestInUse(t) }

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
			out, err := backendtest.Child(t, "open", path).CombinedOutput()
			if err == nil || !strings.Contains(string(out), file.ErrDamaged.Error()) || strings.Contains(string(out), "goroutine") {
				t.Errorf("got %v, %q; want %v", err, out, file.ErrDamaged)
			}
			if left, err := os.ReadFile(path); err != nil || !bytes.Equal(left, c.data) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}
