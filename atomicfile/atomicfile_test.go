package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// stranger is some user who is not the one who runs the test.
const stranger = 65534

func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("only root can make files of other users: run as root, as make test does")
	}
}

// shared is a folder in which everybody may write, as /tmp.
func shared(t *testing.T, mode fs.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestWriteReplacesWhatIsThere(t *testing.T) {
	asRoot(t)
	victim := filepath.Join(t.TempDir(), "victim")
	must(t, os.WriteFile(victim, []byte("precious"), 0o644))
	for name, put := range map[string]func(at string) error{
		"nothing":                  func(string) error { return nil },
		"a link to a file":         func(at string) error { return os.Symlink(victim, at) },
		"a link to nothing":        func(at string) error { return os.Symlink(victim+"2", at) },
		"another name of the file": func(at string) error { return os.Link(victim, at) },
		"a pipe":                   func(at string) error { return syscall.Mkfifo(at, 0o666) },
		"a file of a stranger": func(at string) error {
			return errors.Join(os.WriteFile(at, nil, 0o666), os.Chmod(at, 0o666), os.Chown(at, stranger, stranger))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shared(t, 0o777|fs.ModeSticky)
			at := filepath.Join(dir, "config")
			must(t, put(at))
			// What the name was derived to before: a stranger who knows it had the key.
			must(t, os.Symlink(victim, at+".new"))
			must(t, Write(at, []byte("key"), 0o600))
			info, err := os.Lstat(at)
			if err != nil {
				t.Fatal(err)
			}
			if owner := info.Sys().(*syscall.Stat_t).Uid; info.Mode() != 0o600 || owner != 0 {
				t.Errorf("got mode %v of user %d, want 0600 of root", info.Mode(), owner)
			}
			if got := read(t, at); got != "key" {
				t.Errorf("got %q, want %q", got, "key")
			}
			if got := read(t, victim); got != "precious" {
				t.Errorf("the other file holds %q", got)
			}
			if _, err := os.Lstat(victim + "2"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a link was followed: %v", err)
			}
			onlyThere(t, dir, "config", "config.new")
		})
	}
}

func TestModeIsNotLeftToTheMask(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	at := filepath.Join(t.TempDir(), "certificate")
	must(t, Write(at, nil, 0o644))
	if info, err := os.Stat(at); err != nil || info.Mode() != 0o644 {
		t.Errorf("got %v, %v, want mode 0644", info.Mode(), err)
	}
}

func TestNothingChangesWhenWritingFails(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "file")
	must(t, Write(at, []byte("old"), 0o600))
	broken := errors.New("broken")
	err := Replace(at, 0o600, func(to *os.File) error {
		_, _ = to.WriteString("half")
		return broken
	})
	if !errors.Is(err, broken) || read(t, at) != "old" {
		t.Errorf("got %v and %q, want %v and %q", err, read(t, at), broken, "old")
	}
	must(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
	if err := Write(filepath.Join(dir, "folder"), nil, 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	onlyThere(t, dir, "file", "folder")
}

func TestFolder(t *testing.T) {
	asRoot(t)
	above := shared(t, 0o777|fs.ModeSticky)
	made := filepath.Join(above, "a", "b")
	must(t, Folder(made, 0o700))
	if info, err := os.Stat(made); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("got %v, %v, want mode 0700", info, err)
	}
	must(t, Folder(made, 0o700))

	theirs := filepath.Join(above, "theirs")
	must(t, os.Mkdir(theirs, 0o755))
	must(t, os.Chown(theirs, stranger, stranger))
	must(t, os.Symlink(theirs, filepath.Join(above, "link")))
	for _, dir := range []string{above, theirs, filepath.Join(above, "link")} {
		if err := Folder(dir, 0o700); !errors.Is(err, ErrNotOurs) {
			t.Errorf("%s: got %v, want %v", dir, err, ErrNotOurs)
		}
	}
	t.Setenv("SUDO_UID", "65534")
	must(t, Folder(theirs, 0o700))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	must(t, err)
	return string(data)
}

func onlyThere(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		found := false
		for _, name := range names {
			found = found || e.Name() == name
		}
		if !found {
			t.Errorf("%s was left in the folder", e.Name())
		}
	}
}
