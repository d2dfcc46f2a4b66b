package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/kubelet/untrusted"
)

// Unmount takes down all that Mount and SubPath made for the pod, also in an earlier run, and removes
// <RootDir>/pods/<uid>. It may be repeated. The pod's containers must be gone.
func (m *Manager) Unmount(ctx context.Context, uid types.UID) error {
	if uid == "" || !filepath.IsLocal(string(uid)) || strings.Contains(string(uid), "/") {
		return fmt.Errorf("take down the volumes of pod %q: not a pod UID", uid)
	}
	m.retire(uid)
	dir := m.PodDir(uid)
	if err := unmountBelow(dir); err != nil {
		return fmt.Errorf("take down the volumes of pod %s: %w", uid, err)
	}
	m.release(uid)
	if err := untrusted.Remove(ctx, dir); err != nil {
		return fmt.Errorf("remove the directory of pod %s: %w", uid, err)
	}
	return nil
}

// retire makes the manager forget a pod; a refresh that is under way ends first.
func (m *Manager) retire(uid types.UID) {
	m.mu.Lock()
	p := m.pods[uid]
	delete(m.pods, uid)
	m.mu.Unlock()
	if p != nil {
		p.mu.Lock()
		p.retired = true
		p.mu.Unlock()
	}
	m.configMaps.release(uid)
	m.secrets.release(uid)
	m.tokens.forget(uid)
}

// unmountBelow unmounts everything at or below dir, the newest mount first.
func unmountBelow(dir string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	for _, point := range slices.Backward(mountsBelow(string(table), dir)) {
		err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			// Somebody holds a file there. The mount leaves the tree now and ends with that file.
			err = unix.Unmount(point, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it went with the mount it was in
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(errs...)
}

// mountsBelow reads from proc_pid_mountinfo(5) the mount points at or below dir, oldest first.
func mountsBelow(mountinfo, dir string) []string {
	var points []string
	for line := range strings.Lines(mountinfo) {
		columns := strings.Fields(line)
		if len(columns) < 5 {
			continue
		}
		point := unescape.Replace(columns[4])
		if point == dir || strings.HasPrefix(point, dir+"/") {
			points = append(points, point)
		}
	}
	return points
}

// unescape undoes how the mount table writes special characters in paths.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
