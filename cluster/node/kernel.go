package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/skiff-k8s/skiff/atomicfile"
)

// setting is a value that must stand in a file below /proc/sys.
type setting struct {
	file, value string
	optional    bool // the kernel may lack what the setting is about
}

// forwarding lets packets pass from one link to another.
var forwarding = setting{file: "/proc/sys/net/ipv4/ip_forward", value: "1"}

// nodeSettings are what pods and services need where a node lives.
var nodeSettings = []setting{
	forwarding,
	// Node ports and host ports answer on 127.0.0.1 too.
	{file: "/proc/sys/net/ipv4/conf/all/route_localnet", value: "1"},
	// Packets between pods of one bridge pass the rules of the node, as Services and network policies need.
	{file: "/proc/sys/net/bridge/bridge-nf-call-iptables", value: "1", optional: true},
	{file: "/proc/sys/net/bridge/bridge-nf-call-ip6tables", value: "1", optional: true},
	// A containerd, its shims and the kubelet each watch files.
	{file: "/proc/sys/fs/inotify/max_user_instances", value: "8192", optional: true},
}

// settings is the register of this machine. A boot makes void what it says, and
// empties /run.
var settings = register{file: "/run/skiff-kernel.json"}

// Forward makes the network namespace of the calling thread pass packets on
// until RestoreKernel is called for the same user, a folder of the caller's own.
func Forward(user string) error { return settings.set(user, []setting{forwarding}) }

// RestoreKernel undoes what was set for user and nobody else needs.
func RestoreKernel(user string) error { return settings.restore(user) }

// register is a file that says which settings were changed, from what, and for
// whom: clusters beside each other share a kernel.
type register struct{ file string }

// change is a setting that was changed.
type change struct {
	File string
	// Namespace is the network namespace that File speaks of, empty if that is
	// the whole machine.
	Namespace string
	Old, New  string
	Users     []string
}

// set makes what is wanted hold for user. Changes are written down first, so that
// they can be undone whenever the process dies.
func (r register) set(user string, wanted []setting) error {
	changes, unlock, err := r.open()
	if err != nil {
		return err
	}
	defer unlock()
	for _, s := range wanted {
		if changes, err = s.note(changes, user); err != nil {
			return err
		}
	}
	if err := r.write(changes); err != nil {
		return err
	}
	for _, s := range wanted {
		if err := s.apply(); err != nil && !s.optional {
			return fmt.Errorf("set %s to %s: %w", s.file, s.value, err)
		}
	}
	return nil
}

// restore puts back what was set for user alone. A user whose folder was deleted
// needs nothing any more: it was killed, and nobody will clear up after it.
func (r register) restore(user string) error {
	changes, unlock, err := r.open()
	if err != nil {
		return err
	}
	defer unlock()
	var kept []change
	var errs []error
	for _, c := range changes {
		c.Users = slices.DeleteFunc(c.Users, func(u string) bool { return u == user || isGone(u) })
		if len(c.Users) > 0 {
			kept = append(kept, c)
			continue
		}
		errs = append(errs, c.undo())
	}
	return errors.Join(append(errs, r.write(kept))...)
}

func isGone(folder string) bool {
	_, err := os.Stat(folder)
	return errors.Is(err, fs.ErrNotExist)
}

// note adds that user needs the setting, if that takes or took a change.
func (s setting) note(changes []change, user string) ([]change, error) {
	now, err := readSetting(s.file)
	if errors.Is(err, fs.ErrNotExist) && s.optional {
		return changes, nil
	}
	if err != nil {
		return nil, err
	}
	namespace := namespaceOf(s.file)
	i := slices.IndexFunc(changes, func(c change) bool { return c.File == s.file && c.Namespace == namespace })
	switch {
	case i >= 0 && !slices.Contains(changes[i].Users, user):
		changes[i].Users = append(changes[i].Users, user)
	case i < 0 && now != s.value:
		changes = append(changes, change{File: s.file, Namespace: namespace, Old: now, New: s.value, Users: []string{user}})
	}
	return changes, nil
}

func (s setting) apply() error {
	if now, err := readSetting(s.file); err == nil && now == s.value {
		return nil
	}
	return os.WriteFile(s.file, []byte(s.value), 0o644)
}

// undo puts the old value back. A value that is no longer ours is somebody
// else's by now; of another namespace, which went with its node, nothing is left.
func (c change) undo() error {
	now, err := readSetting(c.File)
	if errors.Is(err, fs.ErrNotExist) { // a module of the kernel was unloaded
		return nil
	}
	if err != nil || now != c.New || namespaceOf(c.File) != c.Namespace {
		return err
	}
	return os.WriteFile(c.File, []byte(c.Old), 0o644)
}

func readSetting(file string) (string, error) {
	data, err := os.ReadFile(file)
	return strings.TrimSpace(string(data)), err
}

// namespaceOf is the network namespace that a file speaks of: the thread's for
// those below net, none for others.
func namespaceOf(file string) string {
	if !strings.HasPrefix(file, "/proc/sys/net/") {
		return ""
	}
	name, _ := os.Readlink("/proc/thread-self/ns/net") // without it all are one
	return name
}

// open locks the register until unlock is called, and reads it.
func (r register) open() (changes []change, unlock func(), err error) {
	if unlock, err = r.lock(); err != nil {
		return nil, nil, err
	}
	if changes, err = r.read(); err != nil {
		unlock()
		return nil, nil, err
	}
	return changes, unlock, nil
}

// lock keeps other processes from the register. Its own file is the directory's,
// as the register comes and goes.
func (r register) lock() (unlock func(), err error) {
	dir, err := os.Open(filepath.Dir(r.file))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		dir.Close()
		return nil, fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	return func() { dir.Close() }, nil
}

func (r register) read() ([]change, error) {
	data, err := os.ReadFile(r.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var changes []change
	if err := json.Unmarshal(data, &changes); err != nil {
		return nil, fmt.Errorf("%s: %w", r.file, err)
	}
	return changes, nil
}

// write replaces the register as a whole; an empty one is no file.
func (r register) write(changes []change) error {
	if len(changes) == 0 {
		if err := os.Remove(r.file); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	data, err := json.Marshal(changes)
	if err != nil {
		return err
	}
	return atomicfile.Write(r.file, data, 0o644)
}
