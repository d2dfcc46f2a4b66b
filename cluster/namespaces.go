package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/atomicfile"
	"github.com/skiff-k8s/skiff/cluster/node"
	"github.com/skiff-k8s/skiff/guard"
)

// namespaces is a folder with the network namespaces of nodes. Each is mounted on a file of its name, which
// keeps it while no process lives in it.
//
// It is not /run/netns, where "ip netns" has its own: that folder is bound over itself by anybody's first "ip
// netns add", which mounts what is in it a second time, out of reach, so that it cannot be removed any more.
// This folder is a mount that cannot be bound elsewhere, so that no copy of what is in it comes to be.
type namespaces string

// open opens a namespace, making it if need be.
func (n namespaces) open(name string) (netns.NsHandle, error) {
	ns, err := n.get(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return ns, err
	}
	if err := n.prepare(); err != nil {
		return netns.None(), err
	}
	if err := n.create(name); err != nil {
		return netns.None(), err
	}
	return n.get(name)
}

// get opens a namespace that is there. A file on which none is mounted, as a boot leaves it, is none.
func (n namespaces) get(name string) (netns.NsHandle, error) {
	ns, err := netns.GetFromPath(n.file(name))
	if err != nil {
		return ns, err
	}
	var where unix.Statfs_t
	if err := unix.Fstatfs(int(ns), &where); err != nil || where.Type != unix.NSFS_MAGIC {
		ns.Close()
		return netns.None(), &fs.PathError{Op: "open namespace", Path: n.file(name), Err: fs.ErrNotExist}
	}
	return ns, nil
}

func (n namespaces) file(name string) string { return filepath.Join(string(n), name) }

// prepare makes the folder.
func (n namespaces) prepare() error {
	if err := atomicfile.Folder(string(n), 0o700); err != nil {
		return err
	}
	mounted, err := node.Mounted(string(n))
	if err != nil || mounted {
		return err
	}
	if err := unix.Mount(string(n), string(n), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", n, err)
	}
	return unix.Mount("", string(n), "", unix.MS_UNBINDABLE, "")
}

// create makes a namespace.
func (n namespaces) create(name string) error {
	file, err := os.OpenFile(n.file(name), os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o400)
	if err != nil {
		return err
	}
	file.Close()
	made := make(chan error)
	guard.Go("network", func() {
		// Making a namespace enters it, so this thread ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- err
			return
		}
		made <- unix.Mount("/proc/thread-self/ns/net", n.file(name), "", unix.MS_BIND, "")
	})
	return <-made
}

// in runs f on a thread that has entered a namespace.
func (n namespaces) in(name string, f func() error) error {
	ns, err := n.get(name)
	if err != nil {
		return err
	}
	defer ns.Close()
	done := make(chan error)
	guard.Go("network", func() {
		// Never unlocked: the thread must not serve another goroutine afterwards.
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		done <- guard.Call("network", f)
	})
	return <-done
}

// remove removes a namespace; what is not there is no error.
func (n namespaces) remove(name string) error {
	if err := node.Unmount(n.file(name)); err != nil {
		return err
	}
	if err := os.Remove(n.file(name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeFolder removes the folder when no namespace is left in it.
func (n namespaces) removeFolder() error {
	if err := node.Unmount(string(n)); err != nil {
		return err
	}
	if err := os.Remove(string(n)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
