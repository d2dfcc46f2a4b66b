package volume

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/kubelet/untrusted"
)

// dataLink is the symbolic link to the directory with the current files. What users see are links
// through it, so that renaming a new link over it changes all files at once.
const dataLink = "..data"

// replace makes files the contents of dir, all at once, unless they are already. Names beginning with
// ".." belong to this function. Readers that opened a file before keep what they opened.
func replace(ctx context.Context, dir string, files map[string]file, group *int64) error {
	for path := range files {
		if err := checkPath(path); err != nil {
			return err
		}
	}
	old, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if err != nil || !same(ctx, filepath.Join(dir, old), files) {
		if err := write(ctx, dir, files, group); err != nil {
			return fmt.Errorf("write the files of %s: %w", dir, err)
		}
	}
	// Also when nothing was written: a run before may have been killed at this point.
	if err := showFiles(dir, files); err != nil {
		return err
	}
	return removeOldData(dir)
}

// checkPath refuses what the API server refuses: a path must stay in the volume, out of our own names.
func checkPath(path string) error {
	switch {
	case path == "":
		return fmt.Errorf("invalid path: must not be empty")
	case filepath.IsAbs(path):
		return fmt.Errorf("invalid path: must be relative path: %s", path)
	case strings.HasPrefix(path, ".."):
		return fmt.Errorf("invalid path: must not start with '..': %s", path)
	case !filepath.IsLocal(path):
		return fmt.Errorf("invalid path: must not contain '..': %s", path)
	}
	return nil
}

// write puts files into a new directory and turns the link to it.
func write(ctx context.Context, dir string, files map[string]file, group *int64) error {
	data, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return err
	}
	if err := os.Chmod(data, 0o755); err != nil {
		return err
	}
	for path, f := range files {
		if err := writeFile(filepath.Join(data, path), f); err != nil {
			return err
		}
	}
	if err := giveToGroup(ctx, dir, group, readable); err != nil {
		return err
	}
	next := filepath.Join(dir, "..data_tmp")
	if err := os.Remove(next); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Symlink(filepath.Base(data), next); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(dir, dataLink))
}

func writeFile(path string, f file) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, f.data, 0o600); err != nil {
		return err
	}
	if f.owner != nil {
		if err := os.Chown(path, int(*f.owner), -1); err != nil {
			return err
		}
	}
	return os.Chmod(path, f.mode) // last, and not left to the umask
}

// same says that the files in a data directory are these.
func same(ctx context.Context, data string, files map[string]file) bool {
	found := 0
	err := filepath.WalkDir(data, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(data, path)
		if err != nil {
			return err
		}
		want, wanted := files[name]
		if !wanted {
			return fs.SkipAll
		}
		have, err := untrusted.ReadAll(ctx, path, int64(len(want.data)), func() (*os.File, error) { return untrusted.Open(data, path) })
		if err != nil {
			return err
		}
		if !bytes.Equal(have, want.data) {
			return fs.SkipAll
		}
		found++
		return nil
	})
	return err == nil && found == len(files)
}

// showFiles makes the links that users see and removes those whose files are gone.
func showFiles(dir string, files map[string]file) error {
	wanted := map[string]bool{}
	for path := range files {
		name, _, _ := strings.Cut(filepath.Clean(path), "/")
		wanted[name] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		// What is neither a link nor ours is the mount point of another volume.
		if strings.HasPrefix(name, "..") || e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		if wanted[name] {
			delete(wanted, name)
			continue
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	for name := range wanted {
		err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name))
		if err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// removeOldData removes every data directory but the current one.
func removeOldData(dir string) error {
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") || !e.IsDir() || e.Name() == current {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
