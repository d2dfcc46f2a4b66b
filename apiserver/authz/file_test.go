package authz_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/apiserver/authz"
)

// refused is a file that a server does not start with.
type refused struct{ Name, File string }

// refusals are the files of testdata/files.yaml, by name in a folder.
func refusals(t *testing.T, dir string) map[string]string {
	data, err := os.ReadFile("testdata/files.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all []refused
	if err := yaml.UnmarshalStrict(data, &all); err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	write(t, kubeconfig, "nothing")
	made := make(map[string]string, len(all))
	for n, f := range all {
		path := filepath.Join(dir, strings.Repeat("f", n+1))
		write(t, path, strings.NewReplacer("$KUBECONFIG", kubeconfig, "$DIR", dir).Replace(f.File))
		made[f.Name] = path
	}
	return made
}

// said is a message without what differs from one run to the next.
func said(message, dir string) string {
	message = regexp.MustCompile(` in scheme \\?"[^"]*"`).ReplaceAllString(message, "")
	message = regexp.MustCompile(`got \*\w+\.`).ReplaceAllString(message, "got *") // the package of a type
	return strings.ReplaceAll(message, dir, "DIR")
}

// TestRefusedFiles: files are refused in the words of kube-apiserver (refusals.json).
func TestRefusedFiles(t *testing.T) {
	data, err := os.ReadFile("testdata/refusals.json")
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]string
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, file := range refusals(t, dir) {
		_, err := authz.Open(authz.Config{File: file})
		if err == nil {
			t.Errorf("%s: it is taken", name)
			continue
		}
		// ABAC is no type here.
		if got, want := said(err.Error(), dir), strings.ReplaceAll(said(want[name], dir), `"ABAC", `, ""); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
