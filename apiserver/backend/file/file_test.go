package file_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/backendtest"
	"github.com/skiff-k8s/skiff/apiserver/backend/file"
)

func TestContract(t *testing.T) {
	for name, open := range map[string]func(string) (*file.Backend, error){"synced": file.Open, "unsynced": file.OpenUnsynced} {
		t.Run(name, func(t *testing.T) {
			var dirs sync.Map // of each test, so that it can open its file again
			backendtest.Run(t, backendtest.Engine{Durable: true, Open: func(t testing.TB) backend.Backend {
				dir, _ := dirs.LoadOrStore(t.Name(), t.TempDir())
				b, err := open(filepath.Join(dir.(string), "data", "skiff.db"))
				if err != nil {
					t.Fatal(err)
				}
				return b
			}})
		})
	}
}

// Compacted history gives its space back: a file that is written for ever and
// compacted now and then stops growing.
func TestFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "skiff.db")
	b, err := file.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	current := make(map[string]int64)
	value := make([]byte, 10_000)
	early, size := int64(0), int64(0)
	for round := range 30 {
		for i := range 100 {
			key := fmt.Sprintf("/k/%d", i%20)
			if current[key], err = b.Put(t.Context(), key, value, current[key], 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Compact(t.Context(), current["/k/0"]); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if size = info.Size(); round == 4 {
			early = size
		}
	}
	if size > 2*early {
		t.Errorf("the file grew from %d to %d bytes while its content stayed the same", early, size)
	}
}
