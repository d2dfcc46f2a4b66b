package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/untrusted"
)

// SubPath resolves subPath (already expanded) in the volume of container's volumeMounts[index] without
// ever leaving the volume, makes missing directories, and returns a path on the host to bind that
// stays what it is whatever happens in the volume. Call it for every new container.
func (m *Manager) SubPath(ctx context.Context, pod *v1.Pod, container string, index int, mount v1.VolumeMount, subPath string) (string, error) {
	if err := checkSubPath(subPath); err != nil {
		return "", err
	}
	root := m.HostPath(pod, mount.Name)
	if root == "" {
		return "", fmt.Errorf("volume %s has no path on the host to take subPath %q from", mount.Name, subPath)
	}
	target := filepath.Join(m.PodDir(pod.UID), "volume-subpaths", mount.Name, container, strconv.Itoa(index))
	return untrusted.Await(ctx, target, func() (string, error) {
		source, err := openSubPath(root, subPath)
		if err != nil {
			return "", err
		}
		defer source.Close()
		return target, bind(source, target)
	})
}

// checkSubPath refuses what an expanded subPathExpr may have become.
func checkSubPath(path string) error {
	if filepath.IsAbs(path) {
		return fmt.Errorf("error SubPath `%s` must not be an absolute path", path)
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			return fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", path)
		}
	}
	return nil
}

// openSubPath opens what is at path in the volume at root, following symbolic links only within it, and
// makes directories like root where there is nothing.
func openSubPath(root, path string) (*os.File, error) {
	volume, err := untrusted.OpenDir(root)
	if err != nil {
		return nil, err
	}
	defer volume.Close()

	found, err := untrusted.OpenAt(volume, path, unix.O_PATH, unix.RESOLVE_BENEATH)
	if errors.Is(err, unix.ENOENT) {
		if err := makeBelow(volume, path); err != nil {
			return nil, err
		}
		found, err = untrusted.OpenAt(volume, path, unix.O_PATH, unix.RESOLVE_BENEATH)
	}
	switch {
	case errors.Is(err, unix.EXDEV):
		return nil, fmt.Errorf("subpath %q not within volume path %q", path, root)
	case err != nil:
		return nil, fmt.Errorf("error opening subpath %v: %w", path, err)
	}
	return found, nil
}

// makeBelow makes the missing directories of path with the volume's own mode and group.
func makeBelow(volume *os.File, path string) error {
	var like unix.Stat_t
	if err := unix.Fstat(int(volume.Fd()), &like); err != nil {
		return err
	}
	at := ""
	for part := range strings.SplitSeq(filepath.Clean(path), "/") {
		parent, err := untrusted.OpenAt(volume, filepath.Join(".", at), unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_BENEATH)
		if err != nil {
			return fmt.Errorf("error opening directory %s: %w", at, err)
		}
		at = filepath.Join(at, part)
		err = makeOne(int(parent.Fd()), part, like.Mode)
		parent.Close()
		if err != nil {
			return fmt.Errorf("cannot create directory %s: %w", at, err)
		}
	}
	return nil
}

// makeOne makes a directory with exactly this mode, unless the name is taken.
func makeOne(parent int, name string, mode uint32) error {
	err := unix.Mkdirat(parent, name, mode&0o777)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	// Not left to the umask. Another one may have put a link here meanwhile, which is not followed.
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fchmod(fd, mode&0o7777)
}

// bind mounts an open file or directory at target, instead of what an earlier container had there.
func bind(source *os.File, target string) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(source.Fd()), &stat); err != nil {
		return err
	}
	if err := unmountBelow(target); err != nil {
		return err
	}
	isDir := stat.Mode&unix.S_IFMT == unix.S_IFDIR
	if err := makeBindPoint(target, isDir); err != nil {
		return err
	}
	if err := unix.Mount(untrusted.Proc(source), target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("error mounting %s: %w", source.Name(), err)
	}
	return nil
}

// makeBindPoint makes an empty directory or file, as one can be mounted only on its like.
func makeBindPoint(target string, isDir bool) error {
	if info, err := os.Lstat(target); err == nil {
		if info.IsDir() == isDir {
			return nil
		}
		if err := os.Remove(target); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	if isDir {
		return os.Mkdir(target, 0o750)
	}
	return os.WriteFile(target, nil, 0o640)
}
