package file_test

import (
	"path/filepath"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/backendtest"
	"github.com/skiff-k8s/skiff/apiserver/backend/file"
)

func BenchmarkPut(b *testing.B)    { backendtest.BenchmarkPut(b, openNew) }
func BenchmarkUpdate(b *testing.B) { backendtest.BenchmarkUpdate(b, openNew) }

func openNew(t testing.TB) backend.Backend {
	b, err := file.Open(filepath.Join(t.TempDir(), "skiff.db"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
