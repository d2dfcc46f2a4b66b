package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// bbolt uses free pages again, but never gives them back. So the file shrinks by
// becoming another one: what is in it is copied to a new file while writes go on,
// and when only little is missing, the writer copies that too and gives the new
// file the name of the old one. Whenever the process or the machine ends, the name
// stands for one of the two, and all that was acknowledged is in both.
//
// The lock is on the file, not on its name. The new one is locked from its
// beginning and the old one until after the change, so that the name always
// stands for a locked file. A process that opened the old one before the change
// and locks it afterwards sees that the name stands for another file, see lock.

const (
	shrinkFloor = 16 << 20         // a file that is smaller is left alone
	shrinkRoom  = 32 << 20         // that a copy leaves on the disk to writes
	shrinkPause = 10 * time.Minute // after a copy that came to nothing
	copyBytes   = 2 << 20          // that are copied at a time, but for the last record
	copyRecords = 4000             // that are copied at a time
)

var (
	errNoRoom    = errors.New("the disk has no room for a copy")
	errNotCaught = errors.New("writes came faster than they could be copied")
)

// shrink gives free pages back to the file system if they are more than half of
// the file. That nothing came of it is no error: all is as it was before. The
// caller holds compacting.
func (b *Backend) shrink(ctx context.Context) {
	size, used := b.size()
	if size < shrinkFloor || used > size/2 || time.Now().Before(b.shrinkAfter) {
		return
	}
	start := time.Now()
	switch err := b.rewrite(ctx, size, used); {
	case err == nil:
		now, _ := b.size()
		slog.Info("The storage file was made smaller", "from", size, "to", now, "took", time.Since(start).Round(time.Millisecond))
	case ctx.Err() == nil && !errors.Is(err, backend.ErrClosed):
		b.shrinkAfter = time.Now().Add(shrinkPause)
		slog.Warn("The storage file keeps its free space for now", "size", size, "used", used, "error", err)
	}
}

// size is how many bytes of the file hold pages, and how many of those are in use.
func (b *Backend) size() (size, used int64) {
	b.mu.RLock()
	db := b.db
	tx, err := b.read()
	b.mu.RUnlock()
	if err != nil {
		return 0, 0
	}
	defer tx.Rollback()
	stats := db.Stats()
	free := int64(stats.FreePageN+stats.PendingPageN) * int64(db.Info().PageSize)
	return tx.Size(), tx.Size() - free
}

// rewrite puts a new file in the place of the file.
func (b *Backend) rewrite(ctx context.Context, size, used int64) (err error) {
	c, err := b.begin(used)
	if err != nil {
		return err
	}
	c.most = size
	defer func() {
		if !c.inPlace {
			err = errors.Join(err, c.db.Close(), os.Remove(c.path))
		}
	}()
	for {
		if err := c.catchUp(ctx, b); err != nil {
			return err
		}
		var old *bbolt.DB
		err := b.byWriter(func() (err error) { old, err = b.replace(c); return err })
		if old != nil {
			err = errors.Join(err, old.Close()) // waits for those who read it
		}
		if err != nil || c.inPlace {
			return err
		}
	}
}

// smaller is a new file that is to take the place of the file.
type smaller struct {
	path    string
	db      *bbolt.DB
	copied  int64 // the revision up to which it has all records
	bytes   int64 // that were copied
	most    int64 // bytes that are worth copying
	inPlace bool
}

// begin makes an empty new file.
func (b *Backend) begin(used int64) (*smaller, error) {
	if err := b.leaves(used + shrinkRoom); err != nil {
		return nil, err
	}
	c := &smaller{path: smallerPath(b.path)}
	o := options()
	o.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, flag|os.O_EXCL, mode)
		if err != nil {
			return nil, err
		}
		if err := alike(f, b.path); err != nil {
			return nil, errors.Join(err, f.Close(), os.Remove(name))
		}
		return f, nil
	}
	var err error
	if c.db, err = bbolt.Open(c.path, 0o600, o); err != nil {
		return nil, err
	}
	c.db.NoSync, c.db.NoGrowSync = b.db.NoSync, b.db.NoGrowSync
	// Nothing is compacted meanwhile, so that what meta says stays.
	if err = b.db.View(func(from *bbolt.Tx) error { return c.db.Update(func(to *bbolt.Tx) error { return copyMeta(to, from) }) }); err != nil {
		return nil, errors.Join(err, c.db.Close(), os.Remove(c.path))
	}
	return c, nil
}

func smallerPath(path string) string { return path + ".smaller" }

// alike gives a new file the owner and the mode of the one whose place it is to
// take.
func alike(f *os.File, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if s := info.Sys().(*syscall.Stat_t); int(s.Uid) != os.Geteuid() || int(s.Gid) != os.Getegid() {
		if err := f.Chown(int(s.Uid), int(s.Gid)); err != nil {
			return err
		}
	}
	return f.Chmod(info.Mode().Perm())
}

func copyMeta(to, from *bbolt.Tx) error {
	if _, err := to.CreateBucket(logBucket); err != nil {
		return err
	}
	meta, err := to.CreateBucket(metaBucket)
	if err != nil {
		return err
	}
	return from.Bucket(metaBucket).ForEach(meta.Put)
}

// catchUp copies until nothing is missing, or what is missing is little and the
// writer may copy it.
func (c *smaller) catchUp(ctx context.Context, b *Backend) error {
	for more := true; more; {
		newest, err := b.Revision(ctx)
		if err == nil {
			err = b.leaves(shrinkRoom)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && c.bytes > c.most {
			err = errNotCaught
		}
		if err == nil {
			more, err = c.copySome(b.db, newest)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copySome copies records up to a revision, a few. more tells that there are
// others.
func (c *smaller) copySome(from *bbolt.DB, until int64) (more bool, err error) {
	var some []copied
	// The file is not held open for reading while the copy is synced: it could not
	// grow meanwhile.
	err = from.View(func(tx *bbolt.Tx) error {
		some, more = recordsOf(tx, c.copied, until)
		return nil
	})
	if err != nil {
		return false, err
	}
	err = c.db.Update(func(tx *bbolt.Tx) error {
		log := tx.Bucket(logBucket)
		log.FillPercent = 1
		for _, r := range some {
			if err := log.Put(r.key, r.record); err != nil {
				return err
			}
			c.bytes += int64(len(r.record))
		}
		return nil
	})
	if err == nil && !more {
		c.copied = until
	} else if err == nil {
		c.copied, err = revisionOf(some[len(some)-1].key)
	}
	return more, err
}

// replace is done by the writer: it copies the rest, if that is little, and puts
// the new file in the place of the old one, which is returned.
func (b *Backend) replace(c *smaller) (old *bbolt.DB, err error) {
	if b.broken != nil {
		return nil, b.broken
	}
	if more, err := c.copySome(b.db, b.revision); err != nil || more {
		return nil, err
	}
	if err := os.Rename(c.path, b.path); err != nil {
		return nil, err
	}
	c.inPlace = true
	b.mu.Lock()
	old, b.db = b.db, c.db
	b.mu.Unlock()
	if err := syncFolder(filepath.Dir(b.path)); err != nil {
		// After a loss of power the name may stand for the old file. It has all that was
		// acknowledged, and must go on having it.
		b.broken = endsWriting(fmt.Errorf("make storage smaller: %w", err))
		return old, b.broken
	}
	return old, nil
}

// leaves is an error if the disk has less room.
func (b *Backend) leaves(room int64) error {
	var s unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(b.path), &s); err != nil {
		return err
	}
	if int64(s.Bavail)*s.Bsize < room {
		return errNoRoom
	}
	return nil
}

// lock opens a database and locks it. backend.ErrInUse, also if another process has
// put a smaller file in its place since it was opened. openFile is os.OpenFile.
func lock(path string, openFile func(string, int, os.FileMode) (*os.File, error)) (*bbolt.DB, error) {
	var f *os.File
	o := options()
	o.OpenFile = func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
		f, err = openFile(name, flag, mode)
		return f, err
	}
	db, err := bbolt.Open(path, 0o600, o)
	if err != nil {
		return nil, err
	}
	opened, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if named, err := os.Stat(path); err != nil || !os.SameFile(opened, named) {
		return nil, errors.Join(backend.ErrInUse, err, db.Close())
	}
	return db, nil
}

// removeLeftover removes a copy that was interrupted by the end of the process.
// The caller has the file locked.
func removeLeftover(path string) error {
	if err := os.Remove(smallerPath(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
