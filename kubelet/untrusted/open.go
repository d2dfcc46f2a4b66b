// Package untrusted reads, walks and removes what containers may have written. A container can put
// anything at a path: a link to a file of the host, a FIFO that never answers, a device, a file of any
// size, a tree of any depth, and it can exchange one for another at any time. All files of the kubelet
// that containers can reach are therefore opened here: links do not lead out, only regular files are
// opened, opening never waits for a writer, reads have a limit, and a context ends whoever waits.
package untrusted

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotRegular is the cause when there is something else than a regular file.
var ErrNotRegular = errors.New("not a regular file")

// Open opens the regular file at path for reading. Links in root are followed, as its path is the
// node's own. Below it there may be none. A path that is not below root by its text may have none at all.
func Open(root, path string) (*os.File, error) {
	rel, err := filepath.Rel(root, path)
	if err != nil || !filepath.IsLocal(rel) {
		root, rel = "/", strings.TrimLeft(path, "/")
	}
	return open(root, rel, unix.RESOLVE_NO_SYMLINKS)
}

// OpenWithin opens the regular file at path in the directory root for reading. Links are followed as if
// root were the root of the file system, so that none leads out of it.
func OpenWithin(root, path string) (*os.File, error) {
	return open(root, path, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// open looks at the file before it opens it: opening a device can already have an effect.
func open(root, path string, resolve uint64) (*os.File, error) {
	name := filepath.Join(root, path)
	dir, err := OpenDir(root)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	found, err := OpenAt(dir, path, unix.O_PATH, resolve)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(found.Fd()), &stat); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s is %w", name, ErrNotRegular)
	}
	fd, err := unix.Open(Proc(found), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// OpenDir opens a directory as a place to look up names from. It does not read it and never waits, also
// when something else than a directory is there.
func OpenDir(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// OpenAt is openat2(2) with a path relative to dir. The kernel asks to try again when a rename elsewhere
// disturbed it.
func OpenAt(dir *os.File, path string, flags int, resolve uint64) (*os.File, error) {
	name := filepath.Join(dir.Name(), path)
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(int(dir.Fd()), path, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)) && try < 100:
			continue
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
}

// Proc is a path that leads to the open file itself, whatever has become of its name.
func Proc(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }
