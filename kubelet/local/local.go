// Package local keeps volumes that are directories of the node. The control plane says when one is made and when it is
// wiped, by its name alone: where the directories are is the node's own affair, so that no path comes from the API.
//
// What is in a volume was written by containers. It is removed by package untrusted, which follows no link and
// enters no mount.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/kubelet/untrusted"
)

// ErrName is the cause when a name is none of a volume.
var ErrName = errors.New("not the name of a volume")

// ErrUsed is the cause when a volume is not wiped because a pod has it.
var ErrUsed = errors.New("the volume is in use")

// Volumes are the volumes below a directory. They may be used concurrently.
type Volumes struct {
	dir  string
	used func(ctx context.Context, volume os.FileInfo) (by string, err error)
}

// In returns the volumes below dir, which is made with the first of them. used names a pod that has a directory
// mounted, or nothing.
func In(dir string, used func(ctx context.Context, volume os.FileInfo) (by string, err error)) *Volumes {
	return &Volumes{dir, used}
}

// names are those of PersistentVolumes. None of them leads to another directory.
var names = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

func check(name string) error {
	if !names.MatchString(name) {
		return fmt.Errorf("%q is %w", name, ErrName)
	}
	return nil
}

// Make makes a volume and returns where it is. One that is there already keeps what is in it. Pods of any user may
// write to it; nobody else on the node comes so far, for the directory above is root's.
func (v *Volumes) Make(ctx context.Context, name string) (path string, err error) {
	if err := check(name); err != nil {
		return "", err
	}
	path = filepath.Join(v.dir, name)
	return untrusted.Await(ctx, "make "+path, func() (string, error) { return path, v.make(name) })
}

func (v *Volumes) make(name string) error {
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return err
	}
	base, err := os.Open(v.dir)
	if err != nil {
		return err
	}
	defer base.Close()
	if err := unix.Mkdirat(int(base.Fd()), name, 0o777); err != nil && !errors.Is(err, unix.EEXIST) {
		return &fs.PathError{Op: "mkdir", Path: filepath.Join(v.dir, name), Err: err}
	}
	made, err := untrusted.OpenAt(base, name, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer made.Close()
	if err := made.Chmod(0o777); err != nil { // the mode of mkdir is cut by the umask
		return err
	}
	return base.Sync() // who is told of the volume finds it also after a loss of power
}

// Wipe removes a volume and all that is in it. It may be repeated, and goes on where it was when ctx ended.
func (v *Volumes) Wipe(ctx context.Context, name string) error {
	if err := check(name); err != nil {
		return err
	}
	path := filepath.Join(v.dir, name)
	info, err := untrusted.Await(ctx, "look at "+path, func() (os.FileInfo, error) { return os.Lstat(path) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	by, err := v.used(ctx, info)
	if err != nil {
		return err
	}
	if by != "" {
		return fmt.Errorf("%w by pod %s", ErrUsed, by)
	}
	return untrusted.Remove(ctx, path)
}
