package stats

import (
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// filesystem measures the whole file system that path is on.
func filesystem(path string) (*statsapi.FsStats, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return nil, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	block := uint64(s.Bsize)
	return &statsapi.FsStats{
		Time:           metav1.Now(),
		AvailableBytes: ptr(s.Bavail * block),
		CapacityBytes:  ptr(s.Blocks * block),
		UsedBytes:      ptr((s.Blocks - s.Bfree) * block),
		InodesFree:     ptr(s.Ffree),
		Inodes:         ptr(s.Files),
		InodesUsed:     ptr(s.Files - s.Ffree),
	}, nil
}

// countPeriod is how long a count of files is good: counting reads whole directory trees.
const countPeriod = time.Minute

// diskCache counts the files in directories, each at most once in countPeriod.
type diskCache struct {
	mu      sync.Mutex
	counted map[string]count
}

type count struct {
	at            time.Time
	bytes, inodes uint64
}

func newDiskCache() *diskCache { return &diskCache{counted: map[string]count{}} }

// directory measures what is in a directory: its own use, and what its file system has left. For a
// directory that is the root of a file system, a tmpfs for one, statfs tells all.
func (d *diskCache) directory(path string) (*statsapi.FsStats, error) {
	whole, err := filesystem(path)
	if err != nil {
		return nil, err
	}
	if isMount(path) {
		return whole, nil
	}
	c := d.count(path)
	whole.Time = metav1.NewTime(c.at)
	whole.UsedBytes, whole.InodesUsed = ptr(c.bytes), ptr(c.inodes)
	return whole, nil
}

func (d *diskCache) count(path string) count {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	c, known := d.counted[path]
	if known && now.Sub(c.at) < countPeriod {
		return c
	}
	for old, c := range d.counted {
		if now.Sub(c.at) > 10*countPeriod {
			delete(d.counted, old)
		}
	}
	c = countFiles(path)
	c.at = now
	d.counted[path] = c
	return c
}

// countFiles adds up the blocks of the files below path, on its file system alone, a file with several
// names once. What vanishes meanwhile does not count.
func countFiles(path string) count {
	var c count
	seen := map[uint64]bool{}
	var device uint64
	_ = filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		s, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if name == path {
			device = uint64(s.Dev)
		}
		if uint64(s.Dev) != device {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if s.Nlink > 1 && !e.IsDir() {
			if seen[s.Ino] {
				return nil
			}
			seen[s.Ino] = true
		}
		c.bytes += uint64(s.Blocks) * 512
		c.inodes++
		return nil
	})
	return c
}

func isMount(path string) bool {
	var s unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &s)
	return err == nil && s.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

func ptr[T any](v T) *T { return &v }
