package engines_test

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/engines"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	foreign := filepath.Join(t.TempDir(), "foreign.db")
	if db, err := sql.Open("sqlite", foreign); err != nil {
		t.Fatal(err)
	} else if _, err := db.Exec("CREATE TABLE songs (title TEXT)"); err != nil {
		t.Fatal(err)
	} else if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, url string
		want      string // part of the error; empty: it opens
		file      string // that is there afterwards
	}{
		{name: "memory", url: "memory://"},
		{name: "file", url: "file://" + dir + "/a/b.db", file: dir + "/a/b.db"},
		{name: "directory", url: "file://" + dir, file: dir + "/skiff.db"},
		{name: "directory to be made", url: "file://" + dir + "/c/", file: dir + "/c/skiff.db"},
		{name: "file that is not synced", url: "unsynced://" + dir + "/u/", file: dir + "/u/skiff.db"},
		{name: "sqlite", url: "sqlite://" + dir + "/s/b.db", file: dir + "/s/b.db"},
		{name: "sqlite in a directory", url: "sqlite://" + dir, file: dir + "/skiff.sqlite"},
		{name: "memory with a path", url: "memory:///x", want: "takes nothing more"},
		{name: "relative path", url: "file://x/y", want: "absolute path"},
		{name: "parameters", url: "file:///x?sync=no", want: "no parameters"},
		{name: "another engine", url: "mongodb://user:secret@host/db", want: "unsupported storage: the URL must begin with etcd:// or file:// or memory:// or mysql:// or postgres:// or sqlite:// or unsynced://"},
		{name: "a path of another program", url: "sqlite://" + foreign, want: "a database of another program"},
		{name: "parameters of sqlite", url: "sqlite:///x?_pragma=synchronous(off)", want: "no parameters"},
		{name: "no URL", url: "/var/lib/skiff", want: "the URL must begin with"},
		{name: "malformed", url: "://", want: "the URL must begin with"},
		{name: "malformed path", url: "file:///%zz", want: "malformed storage URL"},
		{name: "malformed mysql", url: "mysql://host:port/db", want: "malformed URL"},
		{name: "mysql without a database", url: "mysql://host", want: "malformed URL"},
		{name: "unknown parameter of mysql", url: "mysql://host/db?allowAllFiles=true", want: "parameters of mysql:// are"},
		{name: "malformed etcd", url: "etcd://user:secret@a:1,b:x", want: `host "b:x"`},
		{name: "malformed postgres", url: "postgres://host:port/db", want: "malformed URL"},
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

// No error repeats a secret of the URL.
func TestSecrets(t *testing.T) {
	for _, address := range []string{
		"mongodb://user:geheim@host/db?token=geheim",
		"postgres://user:geheim@host:port/db",
		"memory://user:geheim@x/?password=geheim",
		"file://user:geheim@host/x?password=geheim",
		"sqlite://user:geheim@host/x?password=geheim",
		"postgres://user:geheim%@host/db",
		"postgres://user:/geheim@host/db",
		"mysql://user:geheim%@host/db",
		"mysql://user:/geheim@host/db",
		"mysql://user:geheim@host:port/db",
		"mysql://user:geheim@host/db?password=geheim",
		"postgres://user@host/db?password=geheim&port=x",
		"://user:geheim",
	} {
		b, err := engines.Open(address)
		if err == nil {
			b.Close()
			t.Errorf("%s: it opened", address)
		} else if strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: the error repeats the secret: %v", address, err)
		}
	}
}

// What only looks at a storage makes none.
func TestOpenExisting(t *testing.T) {
	dir := t.TempDir()
	for _, url := range []string{"file://" + dir + "/skiff.db", "file://" + dir, "sqlite://" + dir, "memory://"} {
		if b, err := engines.OpenExisting(url); !errors.Is(err, engines.ErrMissing) {
			t.Errorf("open %s: %v, %v", url, b, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("there is %v, %v", left, err)
	}
	b, err := engines.Open("file://" + dir)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if b, err = engines.OpenExisting("file://" + dir); err != nil {
		t.Fatal(err)
	}
	b.Close()
}
