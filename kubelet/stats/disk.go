package stats

import (
	"context"
	"io/fs"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skiff-k8s/skiff/kubelet/untrusted"
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
func (d *diskCache) directory(ctx context.Context, path string) (*statsapi.FsStats, error) {
	type measured struct {
		statsapi.FsStats
		mount bool
	}
	m, err := untrusted.Await(ctx, "measure "+path, func() (measured, error) {
		whole, err := filesystem(path)
		if err != nil {
			return measured{}, err
		}
		return measured{*whole, isMount(path)}, nil
	})
	if err != nil {
		return nil, err
	}
	whole := m.FsStats
	if m.mount {
		return &whole, nil
	}
	c, err := d.count(ctx, path)
	if err != nil {
		return nil, err
	}
	whole.Time = metav1.NewTime(c.at)
	whole.UsedBytes, whole.InodesUsed = ptr(c.bytes), ptr(c.inodes)
	return &whole, nil
}

// count is the newest count. One that takes long goes on, and is found by those who ask later.
func (d *diskCache) count(ctx context.Context, path string) (count, error) {
	d.mu.Lock()
	old, known := d.counted[path]
	d.mu.Unlock()
	if known && time.Since(old.at) < countPeriod {
		return old, nil
	}
	c, err := untrusted.Await(ctx, "count "+path, func() (count, error) {
		c, err := countFiles(path)
		if err == nil {
			c.at = time.Now()
			d.keep(path, c)
		}
		return c, err
	})
	if err != nil && known {
		return old, nil
	}
	return c, err
}

func (d *diskCache) keep(path string, c count) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for old, o := range d.counted {
		if c.at.Sub(o.at) > 10*countPeriod {
			delete(d.counted, old)
		}
	}
	d.counted[path] = c
}

// countFiles adds up the blocks of the files below path, on its file system alone, a file with several
// names once. What vanishes meanwhile does not count. It is nobody's context that ends it, as others wait
// for the count too.
func countFiles(path string) (count, error) {
	var c count
	seen := map[uint64]bool{}
	var device uint64
	err := untrusted.Walk(context.Background(), path, func(e *untrusted.Entry) error {
		s := &e.Stat
		if c.inodes == 0 {
			device = s.Dev
		}
		if s.Dev != device {
			return fs.SkipDir
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
	return c, err
}

func isMount(path string) bool {
	var s unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &s)
	return err == nil && s.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

func ptr[T any](v T) *T { return &v }
