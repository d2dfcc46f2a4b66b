package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/networkpolicy/nftables"
	"github.com/skiff-k8s/skiff/podnet"
)

// politeness is how long containers have between SIGTERM and SIGKILL when
// their node is taken away.
const politeness = 2 * time.Second

// Clean removes all that a node did to the machine: processes, mounts, links,
// rules, kernel settings and cgroups, of this run or of one that was killed. Images, logs and
// the runtime's records stay in Dir. It must run in the node's network
// namespace; what is not there is no error.
func Clean(c Config) error {
	errs := []error{CleanMachine(c), removeBridge(c.Bridge), podnet.Remove(c.PodCIDRs...), removeCacheAddress(c)}
	errs = append(errs, removeHostPortRules())
	// The settings go first: route_localnet without the rules is an open door.
	errs = append(errs, cleanProxy(), nftables.Remove(), RestoreKernel(c.Dir), removeRules())
	return errors.Join(errs...)
}

// CleanMachine is the part of Clean that needs no network namespace, for a node
// that has lost its own.
func CleanMachine(c Config) error {
	errs := []error{endContainers(c), killContainerd(c), killShims(c), killDNSCache(c)}
	unmount := func() error { return unmountBelow(c.Dir) }
	errs = append(errs, unmount(), RemoveCgroups(c.CgroupRoot))
	return errors.Join(append(errs, os.RemoveAll(filepath.Join(c.Dir, "cni")), removeMounted(filepath.Join(c.Dir, "run"), unmount))...)
}

// endContainers ends every process below the node's cgroup, and those below the
// shims that somebody has moved elsewhere.
func endContainers(c Config) error {
	pids := func() []int { return append(cgroupPIDs(c.CgroupRoot), descendants(processesWith(c.ofShims()))...) }
	if len(pids()) == 0 {
		return nil
	}
	signalAll := func(signal syscall.Signal) {
		for _, pid := range pids() {
			_ = syscall.Kill(pid, signal)
		}
	}
	signalAll(syscall.SIGTERM)
	begin := time.Now()
	for len(pids()) > 0 {
		time.Sleep(20 * time.Millisecond)
		if time.Since(begin) > politeness {
			signalAll(syscall.SIGKILL)
		}
		if time.Since(begin) > politeness+10*time.Second {
			return fmt.Errorf("processes %v below cgroup %s do not end", pids(), c.CgroupRoot)
		}
	}
	return nil
}

// cgroupPIDs lists the processes below a cgroup in every hierarchy.
func cgroupPIDs(root string) []int {
	var pids []int
	for _, dir := range cgroupDirs(root) {
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.Name() != "cgroup.procs" {
				return nil // a cgroup may go while we look
			}
			data, _ := os.ReadFile(path)
			for _, line := range strings.Fields(string(data)) {
				if pid, err := strconv.Atoi(line); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// cgroupDirs are the folders of a cgroup: one, or with cgroup v1 one in each
// hierarchy. Hierarchies that are links to another are left out.
func cgroupDirs(root string) []string {
	dirs := []string{filepath.Join("/sys/fs/cgroup", root)}
	entries, _ := os.ReadDir("/sys/fs/cgroup")
	for _, entry := range entries {
		if entry.IsDir() {
			dirs = append(dirs, filepath.Join("/sys/fs/cgroup", entry.Name(), root))
		}
	}
	return slices.DeleteFunc(dirs, func(dir string) bool {
		_, err := os.Stat(dir)
		return err != nil
	})
}

// RemoveCgroups removes a cgroup without processes and all below it, deepest
// first.
func RemoveCgroups(root string) error {
	var errs []error
	for _, top := range cgroupDirs(root) {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
			}
		}
	}
	return errors.Join(errs...)
}

// killContainerd ends the node's container runtime, whoever started it.
func killContainerd(c Config) error {
	return killProcesses("containerd\x00--config\x00"+c.configFile()+"\x00", syscall.SIGTERM)
}

// killShims ends the processes that hold the containers of the node.
func killShims(c Config) error {
	return killProcesses(c.ofShims(), syscall.SIGKILL)
}

// ofShims is what command lines of the node's shims have, and no others.
func (c Config) ofShims() string { return "\x00-address\x00" + c.socket() + "\x00" }

// descendants are the children of processes, and theirs.
func descendants(parents []int) []int {
	children := make(map[int][]int)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		data, _ := os.ReadFile(file) // it may just have ended
		// proc(5): "pid (name) state parent …", where the name may hold anything.
		after := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || len(after) < 18 || hasEnded(after[0], after[17]) {
			continue
		}
		if parent, err := strconv.Atoi(after[1]); err == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	var all []int
	for next := parents; len(next) > 0; {
		var found []int
		for _, pid := range next {
			found = append(found, children[pid]...)
		}
		all, next = append(all, found...), found
	}
	return all
}

// hasEnded tells of a process, by its state and its number of threads, whether it waits for its parent alone. The
// state is that of its first thread: while others run, the process does.
func hasEnded(state, threads string) bool { return state == "Z" && threads == "1" }

// killProcesses ends every process whose command line contains text and waits
// until it is gone.
func killProcesses(text string, signal syscall.Signal) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		pids := processesWith(text)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, signal)
		}
		time.Sleep(10 * time.Millisecond)
		if time.Until(deadline) < 5*time.Second {
			signal = syscall.SIGKILL
		}
	}
}

func processesWith(text string) []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err == nil && strings.Contains(string(cmdline), text) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// removeMounted removes a folder as soon as nothing is mounted in it any more. The
// list of mounts is read in pieces while others come and go, so that one look can
// miss some, and what the dying processes of the node still did may follow.
func removeMounted(dir string, unmount func() error) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := os.RemoveAll(dir)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		if err := unmount(); err != nil {
			return err
		}
	}
}

// RemoveLink removes the link of a name, if there is one.
func RemoveLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return err
	}
	return removeFound(link)
}

// removeBridge removes a bridge and the links that are joined to it, those to pods. They would go with the namespaces of
// the pods, but that is some time later, and never while somebody else has one open.
func removeBridge(name string) error {
	bridge, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return err
	}
	links, err := netlink.LinkList()
	errs := []error{err}
	for _, link := range links {
		if link.Attrs().MasterIndex == bridge.Attrs().Index {
			errs = append(errs, removeFound(link))
		}
	}
	return errors.Join(append(errs, removeFound(bridge))...)
}

// removeFound removes a link that was there a moment ago. The kernel takes links away by itself too: the one to a
// namespace goes some time after the namespace, of which the last process has ended.
func removeFound(link netlink.Link) error {
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}
