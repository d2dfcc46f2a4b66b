package env

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFileValue(t *testing.T) {
	const good = "# comment\n\n  A='one' # more\nB='two\nlines'\nC= 'blank'\nD=''\nE='last'"
	for key, want := range map[string]string{"A": "one", "B": "two\nlines", "C": "", "D": "", "E": "last", "NO": ""} {
		if got, err := fileValue(good, key); err != nil || got != want {
			t.Errorf("value of %s is %q (%v), want %q", key, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"A":            "invalid environment variable format at line 1: missing '='",
		"\n='x'":       "invalid environment variable format at line 2: empty variable name",
		"A ='x'":       "invalid environment variable format at line 1: whitespace before '=' is not allowed",
		"A=x":          "invalid environment variable format at line 1: value must be enclosed in single quotes",
		"A='x' y":      "invalid environment variable format at line 1: unexpected content after closing quote",
		"B='1\n2'\nA=": "invalid environment variable format at line 3: value must be enclosed in single quotes",
		"A='x":         "invalid environment variable format starting at line 1: unclosed single quote",
	} {
		if _, err := fileValue(text, "NO"); err == nil || err.Error() != want {
			t.Errorf("error of %q is %v, want %q", text, err, want)
		}
	}
}

func TestReadWithinStaysInside(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if data, err := readWithin(dir, "link"); err == nil {
		t.Errorf("read %q through a link that leads out", data)
	}
}
