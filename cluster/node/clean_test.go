package node

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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

func TestMountsOfAFolder(t *testing.T) {
	list := parseMounts(`1 0 254:0 / / rw - ext4 /dev/vda rw
2 1 0:4 net:[1] /data/skiff/netns/a rw - nsfs nsfs rw
3 1 0:9 / /data/skiff/run/a\040b rw - tmpfs tmpfs rw
4 1 254:0 /data /mnt rw - ext4 /dev/vda rw
5 4 0:4 net:[1] /mnt/skiff/netns/a rw - nsfs nsfs rw
6 4 0:9 / /mnt/skiff/run/a\040b rw - tmpfs tmpfs rw
7 1 0:4 net:[2] /mnt/skiff/netns/b rw - nsfs nsfs rw
8 1 0:4 net:[1] /run/netns/other rw - nsfs nsfs rw
9 1 0:4 net:[3] /data/skiff2/netns/a rw - nsfs nsfs rw
10 1 0:9 / /data/skiff rw - tmpfs tmpfs rw
`)
	got := ofFolder(list, "/data/skiff")
	want := []string{"/mnt/skiff/run/a b", "/mnt/skiff/netns/a", "/data/skiff/run/a b", "/data/skiff/netns/a"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
