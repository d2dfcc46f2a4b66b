package untrusted

import (
	"errors"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FS shows the regular files and the directories below a root. Links, FIFOs and devices are listed, but
// do not open.
type FS string

// Open implements fs.FS.
func (root FS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	file, err := Open(string(root), filepath.Join(string(root), name))
	if err == nil {
		return file, nil
	}
	if !errors.Is(err, ErrNotRegular) {
		return nil, forbidden(name, err)
	}
	top, err := OpenDir(string(root))
	if err != nil {
		return nil, err
	}
	defer top.Close()
	dir, err := OpenAt(top, name, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return nil, forbidden(name, err)
	}
	return dir, nil
}

// forbidden makes what is there and does not open an error that readers of an fs.FS know.
func forbidden(name string, err error) error {
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return err
}
