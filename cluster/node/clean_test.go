package node

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRemoveMounted removes a folder in which the first look misses a mount.
func TestRemoveMounted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	point := filepath.Join(dir, "rootfs")
	check(t, os.MkdirAll(point, 0o755))
	check(t, unix.Mount("none", point, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(point, unix.MNT_DETACH) })
	looks := 0
	err := removeMounted(dir, func() error {
		if looks++; looks == 1 {
			return nil
		}
		return unmountBelow(dir)
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}
