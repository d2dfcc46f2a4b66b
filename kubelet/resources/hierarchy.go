package resources

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// hierarchy is one mounted control group file system. On v1 there is one per controller or pair of
// controllers, on v2 there is one for all, on a hybrid host v1's plus an idle v2.
type hierarchy struct {
	dir         string
	v2          bool
	idle        bool     // v2 beside v1, without controllers: nothing is made there, only cleared away
	controllers []string // v1 only
}

// setting is a control file and what to write into it.
type setting struct {
	file, value string
	optional    bool // some kernels lack the file
}

// hierarchies reads the mounted hierarchies from a mountinfo file.
func hierarchies(mountinfo string) ([]hierarchy, error) {
	raw, err := os.ReadFile(mountinfo)
	if err != nil {
		return nil, err
	}
	all := parseHierarchies(string(raw))
	if len(all) == 0 {
		return nil, errors.New("no control group file system is mounted")
	}
	return all, nil
}

// parseHierarchies reads proc_pid_mountinfo(5). Of several mounts of one hierarchy the first counts.
func parseHierarchies(mountinfo string) []hierarchy {
	var all []hierarchy
	seen := map[string]bool{}
	for line := range strings.Lines(mountinfo) {
		mount, filesystem, found := strings.Cut(line, " - ")
		left, right := strings.Fields(mount), strings.Fields(filesystem)
		if !found || len(left) < 5 || len(right) < 3 {
			continue
		}
		device := left[2]
		if seen[device] {
			continue
		}
		switch right[0] {
		case "cgroup2":
			all = append(all, hierarchy{dir: left[4], v2: true})
		case "cgroup":
			all = append(all, hierarchy{dir: left[4], controllers: controllersOf(right[2])})
		default:
			continue
		}
		seen[device] = true
	}
	if !isV2(all) {
		for i := range all {
			all[i].idle = all[i].v2
		}
	}
	return all
}

// controllersOf picks the controllers from mount options such as "rw,cpu,cpuacct" or "rw,name=systemd".
func controllersOf(options string) []string {
	return slices.DeleteFunc(strings.Split(options, ","), func(o string) bool {
		return o == "rw" || o == "ro" || o == "xattr" || o == "clone_children" || strings.Contains(o, "=") && !strings.HasPrefix(o, "name=")
	})
}

// isV2 says that every hierarchy is v2, so that v2 has the controllers.
func isV2(all []hierarchy) bool {
	return !slices.ContainsFunc(all, func(h hierarchy) bool { return !h.v2 })
}

// openTo lets the group's children have what the group has: on v2 its controllers.
func (h hierarchy) openTo(group string) error {
	if !h.v2 {
		return nil
	}
	available, err := os.ReadFile(filepath.Join(h.dir, group, "cgroup.controllers"))
	if err != nil {
		return err
	}
	control := filepath.Join(h.dir, group, "cgroup.subtree_control")
	enabled, err := os.ReadFile(control)
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(available)) {
		if slices.Contains(strings.Fields(string(enabled)), name) {
			continue
		}
		// One by one: a controller that cannot be passed on (cpu beside realtime processes) must not
		// keep the others.
		if err := write(control, "+"+name); err != nil && slices.Contains([]string{"cpu", "memory", "pids"}, name) {
			return fmt.Errorf("enable the %s controller: %w", name, err)
		}
	}
	return nil
}

// inherit fills in what a new v1 group does not take from its parent by itself but needs before a
// process can join: CPUs and memory nodes.
func (h hierarchy) inherit(group string) error {
	if !slices.Contains(h.controllers, "cpuset") {
		return nil
	}
	dir := filepath.Join(h.dir, group)
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(have)) > 0 {
			continue
		}
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return err
		}
		if err := write(filepath.Join(dir, file), strings.TrimSpace(string(parent))); err != nil {
			return err
		}
	}
	return nil
}

// settings are the control files of this hierarchy that say l.
func (h hierarchy) settings(l Limits) []setting {
	if h.v2 {
		return settingsV2(l)
	}
	var all []setting
	for _, controller := range h.controllers {
		all = append(all, settingsV1(controller, l)...)
	}
	return all
}

func settingsV1(controller string, l Limits) []setting {
	var all []setting
	add := func(file string, value int64) {
		if value != 0 {
			all = append(all, setting{file: file, value: strconv.FormatInt(value, 10)})
		}
	}
	switch controller {
	case "cpu":
		add("cpu.shares", l.Shares)
		if l.Quota > 0 {
			add("cpu.cfs_period_us", Period)
		}
		add("cpu.cfs_quota_us", l.Quota)
	case "memory":
		add("memory.limit_in_bytes", l.Memory)
	case "pids":
		add("pids.max", l.Processes)
	case "hugetlb":
		for size, bytes := range l.HugePages {
			all = append(all, setting{file: "hugetlb." + size + ".limit_in_bytes", value: strconv.FormatInt(bytes, 10)})
		}
	}
	return all
}

func settingsV2(l Limits) []setting {
	var all []setting
	if l.Shares != 0 {
		all = append(all, setting{file: "cpu.weight", value: strconv.FormatInt(Weight(l.Shares), 10)})
	}
	if l.Quota != 0 {
		all = append(all, setting{file: "cpu.max", value: orMax(l.Quota) + " " + strconv.Itoa(Period)})
	}
	if l.Memory != 0 {
		all = append(all, setting{file: "memory.max", value: orMax(l.Memory)})
	}
	if l.Processes != 0 {
		all = append(all, setting{file: "pids.max", value: orMax(l.Processes)})
	}
	for size, bytes := range l.HugePages {
		all = append(all, setting{file: "hugetlb." + size + ".max", value: strconv.FormatInt(bytes, 10), optional: true})
	}
	return all
}

// Weight takes cpu.shares of v1 (2..262144) to cpu.weight of v2 (1..10000), linearly as KEP-2254 has it.
func Weight(shares int64) int64 {
	return 1 + (shares-minShares)*9999/(maxShares-minShares)
}

func orMax(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}
