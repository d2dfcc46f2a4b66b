package engines_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/engines"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name, url string
		want      string // part of the error; empty: it opens
		file      string // that is there afterwards
	}{
		{name: "memory", url: "memory://"},
		{name: "file", url: "file://" + dir + "/a/b.db", file: dir + "/a/b.db"},
		{name: "directory", url: "file://" + dir, file: dir + "/skiff.db"},
		{name: "directory to be made", url: "file://" + dir + "/c/", file: dir + "/c/skiff.db"},
		{name: "memory with a path", url: "memory:///x", want: "takes nothing more"},
		{name: "relative path", url: "file://x/y", want: "absolute path"},
		{name: "parameters", url: "file:///x?sync=no", want: "no parameters"},
		{name: "another engine", url: "mongodb://user:secret@host/db", want: `unsupported storage "mongodb://user:xxxxx@host/db": the URL must begin with file:// or memory://`},
		{name: "no URL", url: "/var/lib/skiff", want: "the URL must begin with"},
		{name: "malformed", url: "://", want: "storage URL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := engines.Open(c.url)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("open %s: got %v, want an error with %q", c.url, err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatalf("open %s: %v", c.url, err)
			}
			defer b.Close()
			if _, err := b.Put(t.Context(), "/a", nil, backend.Absent, 0); err != nil {
				t.Errorf("put: %v", err)
			}
			if c.file == "" {
				return
			}
			if _, err := os.Stat(filepath.Clean(c.file)); err != nil {
				t.Errorf("the file is not there: %v", err)
			}
		})
	}
}
