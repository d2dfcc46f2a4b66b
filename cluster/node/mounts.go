package node

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is a line of mountinfo, see proc(5).
type mount struct {
	device, root string // which part of which filesystem
	point        string
}

// mounts lists what is mounted where this thread is, oldest first.
func mounts() ([]mount, error) {
	data, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(data)), nil
}

func parseMounts(mountinfo string) []mount {
	var list []mount
	for line := range strings.Lines(mountinfo) {
		if fields := strings.Fields(line); len(fields) >= 5 {
			list = append(list, mount{device: fields[2], root: unescape(fields[3]), point: unescape(fields[4])})
		}
	}
	return list
}

// unescape reads a path in which spaces and the like are written as octal numbers.
func unescape(text string) string {
	plain, err := strconv.Unquote(`"` + strings.ReplaceAll(text, `"`, `\"`) + `"`)
	if err != nil {
		return text
	}
	return plain
}

// Mounted reports whether something is mounted on a path.
func Mounted(point string) (bool, error) {
	list, err := mounts()
	return slices.ContainsFunc(list, func(m mount) bool { return m.point == point }), err
}

// Unmount unmounts all that is mounted on a path.
func Unmount(point string) error {
	for {
		err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // nothing is mounted there
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
}

// unmountBelow unmounts everything mounted below dir, newest first, and what others made of it: a file or
// folder cannot be removed while a copy of what is mounted on it is mounted elsewhere.
func unmountBelow(dir string) error {
	list, err := mounts()
	errs := []error{err}
	for _, point := range ofFolder(list, dir) {
		errs = append(errs, Unmount(point))
	}
	return errors.Join(errs...)
}

// ofFolder lists where something is mounted below dir, and where copies of that are, newest first. A copy
// comes of binding a folder above dir elsewhere with all that is mounted in it ("mount --rbind / /mnt"): it
// is the same part of the same filesystem, and its path ends as that of the original.
func ofFolder(list []mount, dir string) []string {
	type part struct{ device, root, tail string }
	ours := make(map[part]bool)
	tail := func(point string) string { // from the last element of dir on
		i := strings.LastIndex(point, "/"+path.Base(dir)+"/")
		return point[max(i, 0):]
	}
	for _, m := range list {
		if strings.HasPrefix(m.point, dir+"/") {
			ours[part{m.device, m.root, "/" + path.Base(dir) + strings.TrimPrefix(m.point, dir)}] = true
		}
	}
	var points []string
	for _, m := range slices.Backward(list) {
		if strings.HasPrefix(m.point, dir+"/") || ours[part{m.device, m.root, tail(m.point)}] {
			points = append(points, m.point)
		}
	}
	return points
}
