package volume

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/kubelet/untrusted"
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
func giveToGroup(ctx context.Context, dir string, group *int64, may access) error {
	if group == nil {
		return nil
	}
	return untrusted.Walk(ctx, dir, func(e *untrusted.Entry) error { return give(e, *group, may) })
}

// giveRoot gives only the directory itself to a group: a new one has nothing in it yet, and what
// containers put in it later is theirs.
func giveRoot(ctx context.Context, dir string, group *int64, may access) error {
	if group == nil {
		return nil
	}
	return untrusted.Walk(ctx, dir, func(e *untrusted.Entry) error {
		return cmp.Or(give(e, *group, may), fs.SkipAll)
	})
}

func give(e *untrusted.Entry, group int64, may access) error {
	err := e.Own(int(e.Stat.Uid), int(group))
	if err == nil && !e.IsLink() {
		mode := e.Stat.Mode&0o7777 | uint32(may)
		if e.IsDir() {
			mode |= unix.S_ISGID | 0o110
		}
		err = e.SetMode(mode)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE) {
		return nil // a running container removed or replaced it
	}
	return err
}

// belongsTo says that a directory is as give would make it.
func belongsTo(info fs.FileInfo, group int64, may access) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	want := fs.FileMode(may) | fs.ModeSetgid | 0o110
	return ok && int64(stat.Gid) == group && info.Mode()&want == want
}
