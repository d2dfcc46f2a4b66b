package untrusted

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxDepth is how many directories are open at a time while a tree is removed.
const maxDepth = 64

// Remove removes path and all below it. It never goes into something that is mounted there: then it
// fails, and what is mounted stays whole. It ends with ctx and may be repeated.
func Remove(ctx context.Context, path string) error {
	parent, err := OpenDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	r := removal{ctx: ctx}
	return r.remove(parent, filepath.Base(path), 0)
}

// removal removes one tree. What is nested too deep is moved up to top, and removed from there.
type removal struct {
	ctx   context.Context
	top   *os.File
	moved int
}

func (r *removal) remove(parent *os.File, name string, depth int) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	path := filepath.Join(parent.Name(), name)
	err := unix.Unlinkat(int(parent.Fd()), name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return &fs.PathError{Op: "unlink", Path: path, Err: err}
	}
	if depth > maxDepth {
		return r.moveUp(parent, name)
	}
	dir, err := OpenAt(parent, name, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer dir.Close()
	if depth == 0 {
		r.top = dir
	}
	if err := r.empty(dir, depth); err != nil {
		return err
	}
	err = unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: path, Err: err}
	}
	return nil
}

// empty removes what is in a directory, from its start again until nothing is left.
func (r *removal) empty(dir *os.File, depth int) error {
	for {
		names, err := dir.Readdirnames(batch)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := r.remove(dir, name, depth+1); err != nil {
				return err
			}
		}
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

func (r *removal) moveUp(parent *os.File, name string) error {
	for {
		r.moved++
		err := unix.Renameat2(int(parent.Fd()), name, int(r.top.Fd()), "..moved-"+strconv.Itoa(r.moved), unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EEXIST) {
			continue // of a removal that was cut off
		}
		if err != nil {
			return &fs.PathError{Op: "rename", Path: filepath.Join(parent.Name(), name), Err: err}
		}
		return nil
	}
}
