package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"
)

// makeDir makes a directory with exactly this mode, whatever the umask; above it directories that only
// root can enter.
func makeDir(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return err
	}
	if err := os.Mkdir(dir, mode); err != nil {
		if os.IsExist(err) {
			return nil
		}
		return err
	}
	return os.Chmod(dir, mode)
}

// makeTmpfs mounts a tmpfs of at most size bytes (nil and zero: half of the memory) that everybody may
// write to, unless there is one.
func makeTmpfs(dir string, size *resource.Quantity) error {
	options := []string{"mode=0777"}
	if size != nil && !size.IsZero() {
		options = append(options, "size="+strconv.FormatInt(size.Value(), 10))
	}
	// Kernels before 6.3 do not know noswap. Secrets should not reach a disk, but on these they may.
	err := makeMount(dir, "tmpfs", append(options, "noswap"))
	if errors.Is(err, unix.EINVAL) {
		err = makeMount(dir, "tmpfs", options)
	}
	return err
}

func makeHugetlbfs(dir string, page resource.Quantity) error {
	return makeMount(dir, "hugetlbfs", []string{"mode=0777", "pagesize=" + strconv.FormatInt(page.Value(), 10)})
}

func makeMount(dir, filesystem string, options []string) error {
	if err := makeDir(dir, 0o777); err != nil {
		return err
	}
	mounted, err := isMount(dir)
	if err != nil || mounted {
		return err
	}
	if err := unix.Mount(filesystem, dir, filesystem, 0, strings.Join(options, ",")); err != nil {
		return fmt.Errorf("mount %s at %s: %w", filesystem, dir, err)
	}
	return nil
}

// isMount says that something is mounted at path itself, be it a directory or a file.
func isMount(path string) (bool, error) {
	var stat unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &stat)
	if err != nil {
		return false, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
