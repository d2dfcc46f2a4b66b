package encryption

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// openFile makes a file with a text work, or says why not.
func openFile(t testing.TB, text string) (*Encryption, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := Open(t.Context(), Config{File: path})
	if err == nil {
		t.Cleanup(e.Close)
	}
	return e, err
}

// Files that kube-apiserver does not take are not taken here, with its words.
func TestRefusedFiles(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/refused.txtar")
	if err != nil {
		t.Fatal(err)
	}
	texts := make(map[string]string)
	for _, f := range archive.Files {
		texts[f.Name] = string(f.Data)
	}
	asked := 0
	for file, text := range texts {
		name, ok := strings.CutSuffix(file, ".yaml")
		if !ok {
			continue
		}
		asked++
		t.Run(name, func(t *testing.T) {
			want, differs := texts[name+".ours"]
			if !differs {
				want = texts[name+".real"]
			}
			got := "accepted"
			path := filepath.Join(t.TempDir(), "FILE")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			e, err := Open(t.Context(), Config{File: path})
			if err != nil {
				got = strings.ReplaceAll(err.Error(), path, "FILE")
			} else {
				e.Close()
			}
			if got != strings.TrimSuffix(want, "\n") {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
	if asked < 60 {
		t.Errorf("only %d files", asked)
	}
}

// allFile is testdata/all.yaml with a plugin at socket.
func allFile(t testing.TB, socket string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/all.yaml")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "all.yaml")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), "SOCKET", socket)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
