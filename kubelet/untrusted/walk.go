package untrusted

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// batch is how many names of a directory are read at a time: it may have millions.
const batch = 1024

// Entry is a file that Walk found.
type Entry struct {
	Stat unix.Stat_t // of a link: the link's

	dir  int // where name is looked up
	name string
}

// IsDir says whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsLink says whether the entry is a symbolic link.
func (e *Entry) IsLink() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFLNK }

// Own sets owner and group, of a link the link's.
func (e *Entry) Own(uid, gid int) error {
	return unix.Fchownat(e.dir, e.name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}

// SetMode sets the permissions, with set-user-ID and the like, of what was seen. It fails with ESTALE when
// another file, or a link to one, has taken the name meanwhile.
func (e *Entry) SetMode(mode uint32) error {
	fd, err := unix.Openat(e.dir, e.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), e.name)
	defer f.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	if stat.Dev != e.Stat.Dev || stat.Ino != e.Stat.Ino || stat.Mode&unix.S_IFMT != e.Stat.Mode&unix.S_IFMT {
		return unix.ESTALE
	}
	return unix.Chmod(Proc(f), mode)
}

// Walk visits root and all below it. It never follows a link, has one directory open at a time, ends with
// ctx, and passes over what vanishes meanwhile and what is nested deeper than a path can be long. visit
// may return fs.SkipDir, to pass over what is in the directory, or fs.SkipAll.
func Walk(ctx context.Context, root string, visit func(*Entry) error) error {
	top, err := OpenDir(root)
	if err != nil {
		return err
	}
	defer top.Close()
	w := walk{ctx: ctx, top: top, visit: visit}
	err = w.see(unix.AT_FDCWD, root, ".")
	for len(w.pending) > 0 && err == nil {
		next := w.pending[len(w.pending)-1]
		w.pending = w.pending[:len(w.pending)-1]
		err = w.enter(next)
	}
	if errors.Is(err, fs.SkipAll) {
		return nil
	}
	return err
}

type walk struct {
	ctx     context.Context
	top     *os.File
	visit   func(*Entry) error
	pending []string // directories below top that were seen and not yet read
}

// enter sees all that is in a directory.
func (w *walk) enter(path string) error {
	dir, err := OpenAt(w.top, path, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return passable(err)
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(batch)
		for _, name := range names {
			if err := w.see(int(dir.Fd()), name, filepath.Join(path, name)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return passable(err)
		}
	}
}

// see visits an entry, and keeps a directory to be entered later.
func (w *walk) see(dir int, name, path string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	e := Entry{dir: dir, name: name}
	if err := unix.Fstatat(dir, name, &e.Stat, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT); err != nil {
		return passable(err)
	}
	err := w.visit(&e)
	if errors.Is(err, fs.SkipDir) {
		return nil
	}
	if err == nil && e.IsDir() {
		w.pending = append(w.pending, path)
	}
	return err
}

// passable drops the errors of what is no longer what it was, or too deep.
func passable(err error) error {
	for _, expected := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG, unix.EXDEV} {
		if errors.Is(err, expected) {
			return nil
		}
	}
	return err
}
