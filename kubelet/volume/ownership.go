package volume

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// access is what a pod's fsGroup may do with a volume.
type access fs.FileMode

const (
	readable access = 0o440
	writable access = 0o660
)

// fsGroup is the group that the pod's volumes belong to, nil for root's.
func (v *volume) fsGroup() *int64 {
	if v.pod.Spec.SecurityContext == nil {
		return nil
	}
	return v.pod.Spec.SecurityContext.FSGroup
}

// giveToGroup gives a directory and all below it to a group, if any. New files in it will be the group's
// too, as its directories get the set-group-ID bit.
func giveToGroup(dir string, group *int64, may access) error {
	if group == nil {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			if os.IsNotExist(err) {
				return nil // a running container removed it
			}
			return err
		}
		return give(path, info, *group, may)
	})
}

// giveRoot gives only the directory itself to a group: a new one has nothing in it yet, and what
// containers put in it later is theirs.
func giveRoot(dir string, group *int64, may access) error {
	if group == nil {
		return nil
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	return give(dir, info, *group, may)
}

func give(path string, info fs.FileInfo, group int64, may access) error {
	owner := 0
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = int(stat.Uid)
	}
	if err := os.Lchown(path, owner, int(group)); err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	mode := info.Mode() | fs.FileMode(may)
	if info.IsDir() {
		mode |= fs.ModeSetgid | 0o110
	}
	return os.Chmod(path, mode)
}

// belongsTo says that a directory is as give would make it.
func belongsTo(info fs.FileInfo, group int64, may access) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	want := fs.FileMode(may) | fs.ModeSetgid | 0o110
	return ok && int64(stat.Gid) == group && info.Mode()&want == want
}
