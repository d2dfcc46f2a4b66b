package resources

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	podsGroup = "kubepods" // the group of all pods, below the root
	podPrefix = "pod"      // a pod's group is "pod<uid>"
)

// Cgroups keeps the control groups below one root. It is safe for concurrent use: pods' groups are their
// own, and the groups above them change only under mu.
type Cgroups struct {
	root   string // within the hierarchies
	mounts []hierarchy
	v2     bool

	mu        sync.Mutex
	burstable map[types.UID]int64 // CPU requests of Burstable pods, in thousandths
}

// OpenCgroups finds the mounted hierarchies and makes root and its quality of service groups there.
// root is a path within the hierarchies such as "/" or "/skiff/node-1".
func OpenCgroups(root string) (*Cgroups, error) {
	mounts, err := hierarchies("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find the control group hierarchies: %w", err)
	}
	c := &Cgroups{root: path.Join("/", root), mounts: mounts, v2: isV2(mounts), burstable: map[types.UID]int64{}}
	for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		if err := c.make(c.classGroup(class)); err != nil {
			return nil, err
		}
	}
	return c, c.apply(c.classGroup(v1.PodQOSBestEffort), Limits{Shares: minShares})
}

// V2 says that the host is on cgroup v2.
func (c *Cgroups) V2() bool { return c.v2 }

// PodParent is the cgroup parent of the pod's sandbox, for PodSandboxConfig.Linux.CgroupParent.
func (c *Cgroups) PodParent(pod *v1.Pod) string {
	return path.Join(c.classGroup(QOS(pod)), podPrefix+string(pod.UID))
}

// EnsurePod makes the pod's groups and sets their limits. When a running pod is resized, call it before
// containers grow and after containers shrink: the kernel refuses a group that outgrows its parent.
func (c *Cgroups) EnsurePod(pod *v1.Pod) error {
	group := c.PodParent(pod)
	if err := c.make(group); err != nil {
		return err
	}
	if err := c.apply(group, ForPod(pod)); err != nil {
		return err
	}
	if QOS(pod) != v1.PodQOSBurstable {
		return nil
	}
	return c.balance(pod.UID, cpuRequests(pod))
}

// Limit sets what all pods together may use: what the node has to give.
func (c *Cgroups) Limit(allocatable v1.ResourceList) error {
	return c.apply(c.classGroup(v1.PodQOSGuaranteed), ForAll(allocatable))
}

// balance gives the group of all Burstable pods a share of the CPU that is the sum of theirs, after one of
// them came, changed or, with a request below zero, went.
func (c *Cgroups) balance(uid types.UID, milli int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, known := c.burstable[uid]
	switch {
	case known && was == milli, !known && milli < 0:
		return nil
	case milli < 0:
		delete(c.burstable, uid)
	default:
		c.burstable[uid] = milli
	}
	var sum int64
	for _, m := range c.burstable {
		sum += m
	}
	return c.apply(c.classGroup(v1.PodQOSBurstable), Limits{Shares: Shares(sum)})
}

// Pods lists the pods that have groups, also from an earlier run.
func (c *Cgroups) Pods() ([]types.UID, error) {
	var uids []types.UID
	for _, dir := range c.podDirs("*") {
		uids = append(uids, types.UID(strings.TrimPrefix(filepath.Base(dir), podPrefix)))
	}
	slices.Sort(uids)
	return slices.Compact(uids), nil
}

// RemovePod kills what is left in the pod's groups and removes them. It may be repeated.
func (c *Cgroups) RemovePod(uid types.UID) error {
	if uid == "" || strings.ContainsAny(string(uid), "/*?[\\") {
		return fmt.Errorf("remove the control groups of pod %q: not a pod UID", uid)
	}
	errs := []error{c.balance(uid, -1)}
	for _, dir := range c.podDirs(string(uid)) {
		errs = append(errs, remove(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the control groups of pod %s: %w", uid, err)
	}
	return nil
}

// classGroup is the group of a quality of service class. Guaranteed pods are directly below all pods'.
func (c *Cgroups) classGroup(class v1.PodQOSClass) string {
	switch class {
	case v1.PodQOSBurstable:
		return path.Join(c.root, podsGroup, "burstable")
	case v1.PodQOSBestEffort:
		return path.Join(c.root, podsGroup, "besteffort")
	}
	return path.Join(c.root, podsGroup)
}

// podDirs are the directories of the groups of a pod ("*" for all pods) in all hierarchies and classes.
func (c *Cgroups) podDirs(uid string) []string {
	var dirs []string
	for _, h := range c.mounts {
		for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
			found, _ := filepath.Glob(filepath.Join(h.dir, c.classGroup(class), podPrefix+uid))
			dirs = append(dirs, found...)
		}
	}
	return dirs
}

// make makes a group in every hierarchy, from the top down, as children inherit what parents have.
func (c *Cgroups) make(group string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.mounts {
		if h.idle {
			continue
		}
		at := "/"
		for _, name := range strings.Split(strings.Trim(group, "/"), "/") {
			if err := h.openTo(at); err != nil {
				return fmt.Errorf("prepare control group %s of %s: %w", at, h.dir, err)
			}
			at = path.Join(at, name)
			if err := os.Mkdir(filepath.Join(h.dir, at), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make control group: %w", err)
			}
			if err := h.inherit(at); err != nil {
				return fmt.Errorf("prepare control group %s of %s: %w", at, h.dir, err)
			}
		}
		if err := h.openTo(at); err != nil {
			return fmt.Errorf("prepare control group %s of %s: %w", at, h.dir, err)
		}
	}
	return nil
}

// apply writes limits into a group's files.
func (c *Cgroups) apply(group string, l Limits) error {
	for _, h := range c.mounts {
		if h.idle {
			continue
		}
		for _, s := range h.settings(l) {
			if err := write(filepath.Join(h.dir, group, s.file), s.value); err != nil {
				if s.optional && errors.Is(err, fs.ErrNotExist) {
					continue
				}
				return fmt.Errorf("set %s of control group %s to %q: %w", s.file, group, s.value, err)
			}
		}
	}
	return nil
}

// remove kills the processes of a group and those below it and removes them, deepest first.
func remove(dir string) error {
	var groups []string
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && e.IsDir() {
			groups = append(groups, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Reverse(groups)
	for _, group := range groups {
		if err := removeOne(group); err != nil {
			return err
		}
	}
	return nil
}

// removeOne removes one group without children. A killed process leaves its group only when the kernel
// has taken it apart, so that removing may need some tries.
func removeOne(group string) error {
	var err error
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		err = os.Remove(group)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			return err
		}
		kill(group)
		time.Sleep(wait)
	}
	return err
}

func kill(group string) {
	raw, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, line := range bytes.Fields(raw) {
		pid, err := strconv.Atoi(string(line))
		if err != nil || pid <= 0 {
			continue // 0 is a process outside of our process namespace
		}
		slog.Info("killing a process left in a control group", "group", group, "pid", pid)
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended meanwhile
	}
}

// write writes a control file. These must not be created, truncated or written in parts.
func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
