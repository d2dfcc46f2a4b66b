package resources

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Usage is what the processes of a control group and those below it use and used.
type Usage struct {
	CPU        uint64 // nanoseconds since the group was made
	Memory     uint64 // bytes, with caches
	WorkingSet uint64 // bytes that cannot be freed at once
	RSS        uint64 // bytes of anonymous memory

	PageFaults, MajorPageFaults uint64
}

// Measure reads the usage of a group given by its path within the hierarchies. The root group of cgroup
// v2 counts no memory: its fields for that are zero.
func Measure(group string) (Usage, error) {
	mounts, err := hierarchies("/proc/self/mountinfo")
	if err != nil {
		return Usage{}, err
	}
	var u Usage
	found := false
	for _, h := range mounts {
		dir := filepath.Join(h.dir, group)
		switch {
		case h.idle:
			continue
		case h.v2:
			err = u.readV2(dir)
		case slices.Contains(h.controllers, "cpuacct"):
			u.CPU, err = readNumber(filepath.Join(dir, "cpuacct.usage"))
		case slices.Contains(h.controllers, "memory"):
			err = u.readMemoryV1(dir)
		default:
			continue
		}
		if err != nil {
			return Usage{}, fmt.Errorf("measure control group %s: %w", group, err)
		}
		found = true
	}
	if !found {
		return Usage{}, fmt.Errorf("measure control group %s: no hierarchy counts CPU time or memory", group)
	}
	return u, nil
}

func (u *Usage) readV2(dir string) error {
	cpu, err := readTable(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return err
	}
	u.CPU = cpu["usage_usec"] * 1000
	u.Memory, err = readNumber(filepath.Join(dir, "memory.current"))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	stat, err := readTable(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return err
	}
	u.WorkingSet = u.Memory - min(stat["inactive_file"], u.Memory)
	u.RSS, u.PageFaults, u.MajorPageFaults = stat["anon"], stat["pgfault"], stat["pgmajfault"]
	return nil
}

func (u *Usage) readMemoryV1(dir string) error {
	var err error
	if u.Memory, err = readNumber(filepath.Join(dir, "memory.usage_in_bytes")); err != nil {
		return err
	}
	stat, err := readTable(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return err
	}
	u.WorkingSet = u.Memory - min(stat["total_inactive_file"], u.Memory)
	u.RSS, u.PageFaults, u.MajorPageFaults = stat["total_rss"], stat["total_pgfault"], stat["total_pgmajfault"]
	return nil
}

func readNumber(file string) (uint64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
}

// readTable reads a file of "name number" lines.
func readTable(file string) (map[string]uint64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	table := map[string]uint64{}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			table[name] = n
		}
	}
	return table, nil
}
