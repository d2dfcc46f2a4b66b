package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func unused(context.Context, os.FileInfo) (string, error) { return "", nil }

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestVolumesAreMadeAndWiped(t *testing.T) {
	top := t.TempDir()
	v := In(filepath.Join(top, "volumes"), unused)
	defer unix.Umask(unix.Umask(0o077))
	path, err := v.Make(t.Context(), "pvc-1")
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(top, "volumes", "pvc-1"); path != want {
		t.Errorf("made %s, want %s", path, want)
	}
	for dir, want := range map[string]os.FileMode{path: 0o777, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v (%v), want %v", dir, info.Mode(), err, want)
		}
	}
	write(t, filepath.Join(path, "a", "data"), "kept")
	if _, err := v.Make(t.Context(), "pvc-1"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(path, "a", "data")); string(text) != "kept" {
		t.Errorf("made again, it holds %q (%v)", text, err)
	}
	for range 2 {
		if err := v.Wipe(t.Context(), "pvc-1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the wiped volume: %v, want that it is not there", err)
	}
}

// TestNothingElseIsWiped: neither names nor what containers wrote lead out of a volume.
func TestNothingElseIsWiped(t *testing.T) {
	top := t.TempDir()
	outside := filepath.Join(top, "outside", "data")
	write(t, outside, "of others")
	v := In(filepath.Join(top, "volumes"), unused)
	path, err := v.Make(t.Context(), "pvc-1")
	if err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		filepath.Join(path, "absolute"):           filepath.Dir(outside),
		filepath.Join(path, "relative"):           "../../outside",
		filepath.Join(path, "file"):               outside,
		filepath.Join(top, "volumes", "pvc-evil"): filepath.Dir(outside),
	} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	mounted := filepath.Join(path, "mounted")
	if err := os.Mkdir(mounted, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(filepath.Dir(outside), mounted, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := v.Wipe(t.Context(), "pvc-1"); err == nil {
		t.Error("a volume with something mounted in it was wiped")
	}
	if err := unix.Unmount(mounted, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Make(t.Context(), "pvc-evil"); err == nil {
		t.Error("a link was taken for a volume")
	}
	for _, name := range []string{"pvc-1", "pvc-evil"} {
		if err := v.Wipe(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", ".", "..", "../outside", "pvc-1/../../outside", "/", "a/b", "..-", "A", "x\x00y", strings.Repeat("x", 254)} {
		if _, err := v.Make(t.Context(), name); !errors.Is(err, ErrName) {
			t.Errorf("making %q: %v, want %v", name, err, ErrName)
		}
		if err := v.Wipe(t.Context(), name); !errors.Is(err, ErrName) {
			t.Errorf("wiping %q: %v, want %v", name, err, ErrName)
		}
	}
	if text, err := os.ReadFile(outside); string(text) != "of others" {
		t.Errorf("what is outside holds %q (%v)", text, err)
	}
}

func TestVolumesInUseAreNotWiped(t *testing.T) {
	by := "uid"
	v := In(t.TempDir(), func(context.Context, os.FileInfo) (string, error) { return by, nil })
	path, err := v.Make(t.Context(), "pvc-1")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(path, "data"), "")
	if err := v.Wipe(t.Context(), "pvc-1"); !errors.Is(err, ErrUsed) {
		t.Errorf("wiping what a pod has: %v, want %v", err, ErrUsed)
	}
	if _, err := os.Stat(filepath.Join(path, "data")); err != nil {
		t.Error(err)
	}
	by = ""
	if err := v.Wipe(t.Context(), "pvc-1"); err != nil {
		t.Error(err)
	}
}

// TestFullDisk fills the file system below the volumes.
func TestFullDisk(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("none", disk, "tmpfs", 0, "nr_inodes=4"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	v := In(disk, unused)
	for _, name := range []string{"a", "b", "c"} {
		if _, err := v.Make(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.Make(t.Context(), "d"); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a volume too many: %v, want %v", err, unix.ENOSPC)
	}
	if err := v.Wipe(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Make(t.Context(), "d"); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// FuzzNames: whatever a name is, all that is made is an entry of the folder.
func FuzzNames(f *testing.F) {
	for _, name := range []string{"pvc-1", "..", "a/b", "a..b", "-a", "a.", "../x"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		top := t.TempDir()
		v := In(filepath.Join(top, "volumes"), unused)
		path, err := v.Make(t.Context(), name)
		if err != nil {
			if errors.Is(err, ErrName) {
				return
			}
			t.Fatal(err)
		}
		if filepath.Dir(path) != filepath.Join(top, "volumes") || filepath.Base(path) != name {
			t.Errorf("%q was made at %s", name, path)
		}
		if err := v.Wipe(t.Context(), name); err != nil {
			t.Error(err)
		}
		if entries, err := os.ReadDir(top); err != nil || len(entries) != 1 {
			t.Errorf("%q left %v (%v)", name, entries, err)
		}
	})
}
