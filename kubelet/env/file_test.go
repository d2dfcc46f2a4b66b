package env

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

func TestFileValue(t *testing.T) {
	const good = "# comment\n\n  A='one' # more\nB='two\r\nlines'\r\nC= 'blank'\nD=''\nE='last'"
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
		"A='x'\v":      "invalid environment variable format at line 1: unexpected content after closing quote",
		" \t='x'":      "invalid environment variable format at line 1: empty variable name",
		"A='x":         "invalid environment variable format starting at line 1: unclosed single quote",
	} {
		if _, err := fileValue(text, "NO"); err == nil || err.Error() != want {
			t.Errorf("error of %q is %v, want %q", text, err, want)
		}
	}
}

func TestLongLines(t *testing.T) {
	if _, err := fileValue("A='"+strings.Repeat("x", 64<<10)+"'", "A"); !errors.Is(err, bufio.ErrTooLong) {
		t.Errorf("error %v, want that the line is too long", err)
	}
}

func TestFilesOfContainers(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	const text = "KEY='value'\n"
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.WriteFile(filepath.Join(outside, "secret"), []byte(text), 0o600),
		os.WriteFile(in("good"), []byte(text), 0o600),
		os.Symlink("/good", in("inside")),
		os.Symlink(filepath.Join(outside, "secret"), in("outside")),
		unix.Mkfifo(in("fifo"), 0o600),
		unix.Mknod(in("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))),
		os.Mkdir(in("directory"), 0o700),
		os.WriteFile(in("sparse"), []byte(text), 0o600),
		os.Truncate(in("sparse"), 2<<30),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"good": "value", "inside": "value",
		"outside": "", "fifo": "", "device": "", "directory": "", "sparse": "", "missing": "",
	} {
		r := resolver{Source: Source{Pod: &v1.Pod{}, VolumePath: func(string) string { return dir }}}
		got, _, err := r.fileKey(t.Context(), &v1.FileKeySelector{VolumeName: "v", Path: path, Key: "KEY"})
		if got != want {
			t.Errorf("%s: value %q, want %q", path, got, want)
		}
		if want == "" && (err == nil || err.Error() != "couldn't parse env file") {
			t.Errorf("%s: error %v, want upstream's", path, err)
		}
	}
}

// FuzzFileValue gives the parser what a container may write.
func FuzzFileValue(f *testing.F) {
	f.Add("# c\n\n A='one' # more\nB='two\r\nlines'\nC= 'x'\n", "B")
	f.Add("A='x' y", "A")
	f.Add("A='", "A")
	f.Add("A=''\n='x'", "")
	f.Fuzz(func(t *testing.T, text, key string) {
		if key == "" || strings.ContainsAny(key, "= \t\n\r#") {
			return // not a key that the API takes
		}
		value, err := fileValue(text, key)
		if strings.Contains(value, "'") {
			t.Errorf("value %q goes past its quote", value)
		}
		if err != nil && value != "" {
			t.Errorf("value %q beside error %v", value, err)
		}
		// What is before the file's first line changes nothing, nor does what is after the key's.
		if again, err := fileValue("# comment\n\n"+text, key); err == nil && again != value {
			t.Errorf("value %q becomes %q after a comment", value, again)
		}
		if strings.ContainsRune(value, '\r') {
			return // the end of a line in the value would lose it
		}
		if again, err := fileValue(key+"='"+value+"'\n"+text, key); len(value) < 60_000 && (err != nil || again != value) {
			t.Errorf("value %q is read back as %q (%v)", value, again, err)
		}
	})
}
