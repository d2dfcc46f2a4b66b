package file_test

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/backendtest"
	"github.com/skiff-k8s/skiff/apiserver/backend/file"
)

func TestContract(t *testing.T) {
	var dirs sync.Map // of each test, so that it can open its file again
	backendtest.Run(t, backendtest.Engine{Durable: true, Open: func(t testing.TB) backend.Backend {
		dir, _ := dirs.LoadOrStore(t.Name(), t.TempDir())
		b, err := file.Open(filepath.Join(dir.(string), "data", "skiff.db"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}})
}
