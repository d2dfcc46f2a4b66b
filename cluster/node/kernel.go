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

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/atomicfile"
)

// setting is a value that must stand in a file below /proc/sys.
type setting struct {
	file, value string
	optional    bool // the kernel may lack what the setting is about
}

// forwarding lets packets pass from one link to another.
var forwarding = setting{file: "/proc/sys/net/ipv4/ip_forward", value: "1"}

// forwardingIPv6 is the same for IPv6, after which links take no routes that
// routers advertise unless acceptAdvertised says so.
var forwardingIPv6 = setting{file: "/proc/sys/net/ipv6/conf/all/forwarding", value: "1"}

// commonSettings are what pods and services need where a node lives, in any family.
var commonSettings = []setting{
	// A containerd, its shims and the kubelet each watch files.
	{file: "/proc/sys/fs/inotify/max_user_instances", value: "8192", optional: true},
}

// familySettings are what they need besides for one.
var familySettings = map[corev1.IPFamily][]setting{
	corev1.IPv4Protocol: {
		forwarding,
		// Node ports and host ports answer on 127.0.0.1 too.
		{file: "/proc/sys/net/ipv4/conf/all/route_localnet", value: "1"},
		// Packets between pods of one bridge pass iptables, as Services need.
		{file: "/proc/sys/net/bridge/bridge-nf-call-iptables", value: "1", optional: true},
	},
	corev1.IPv6Protocol: {
		forwardingIPv6,
		{file: "/proc/sys/net/bridge/bridge-nf-call-ip6tables", value: "1", optional: true},
	},
}

// nodeSettings are those of a node.
func nodeSettings(c Config) ([]setting, error) {
	list := slices.Clone(commonSettings)
	for _, f := range c.PodCIDRs.Families() {
		if f == corev1.IPv6Protocol {
			advertised, err := acceptAdvertised("/proc/sys/net/ipv6/conf")
			if err != nil {
				return nil, err
			}
			list = append(list, advertised...)
		}
		list = append(list, familySettings[f]...)
	}
	return list, nil
}

// acceptAdvertised keeps a machine's default route where routers advertise it:
// links that accept that (1) do not while the machine forwards, unless they are
// told to (2). They are told before it forwards.
func acceptAdvertised(folder string) ([]setting, error) {
	links, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("this kernel has no IPv6, of which the cluster is to be: %w", err)
	}
	var list []setting
	for _, link := range links {
		if slices.Contains([]string{"all", "default", "lo"}, link.Name()) {
			continue
		}
		file := filepath.Join(folder, link.Name(), "accept_ra")
		if now, err := readSetting(file); err == nil && now == "1" {
			list = append(list, setting{file: file, value: "2", optional: true})
		}
	}
	return list, nil
}

// settings is the register of this machine. A boot makes void what it says, and
// empties /run.
var settings = register{file: "/run/skiff-kernel.json"}

// Forward makes the network namespace of the calling thread pass packets of
// families on until RestoreKernel is called for the same user, a folder of the
// caller's own.
func Forward(user string, families []corev1.IPFamily) error {
	var wanted []setting
	for _, f := range families {
		if f == corev1.IPv4Protocol {
			wanted = append(wanted, forwarding)
			continue
		}
		advertised, err := acceptAdvertised("/proc/sys/net/ipv6/conf")
		if err != nil {
			return err
		}
		wanted = append(append(wanted, advertised...), forwardingIPv6)
	}
	return settings.set(user, wanted)
}

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
