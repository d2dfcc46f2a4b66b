package file

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// end is when a value's lifetime ends.
type end struct {
	key      string
	revision int64
	at       time.Time
}

// load makes the index from what is in the file, and finishes a compaction
// that was interrupted. It returns the lifetimes that are still running.
func (b *Backend) load() (ends []end, err error) {
	if err := b.db.Update(prepare); err != nil {
		return nil, err
	}
	lifetimes := make(map[string]end)
	err = b.db.View(func(tx *bbolt.Tx) error {
		if compacted := tx.Bucket(metaBucket).Get(compactedKey); len(compacted) == 8 {
			b.compacted = int64(binary.BigEndian.Uint64(compacted))
		}
		b.revision = b.compacted // the record of the newest revision may have been dropped
		return tx.Bucket(logBucket).ForEach(func(k, v []byte) error {
			revision, err := revisionOf(k)
			if err != nil {
				return err
			}
			r, err := decodeRecord(v)
			if err != nil {
				return fmt.Errorf("read revision %d: %w", revision, err)
			}
			b.index.Add(r.key, revision, r.deleted)
			b.revision = max(b.revision, revision)
			delete(lifetimes, r.key)
			if !r.end.IsZero() {
				lifetimes[r.key] = end{r.key, revision, r.end}
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	b.dropped = b.index.Compact(b.compacted)
	slices.Sort(b.dropped)
	if err := b.drop(func(work func() error) error { return work() }); err != nil {
		return nil, err
	}
	for _, e := range lifetimes {
		ends = append(ends, e)
	}
	return ends, nil
}

// prepare makes an empty file a database of ours, and refuses one of another
// layout.
func prepare(tx *bbolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	if _, err := tx.CreateBucketIfNotExists(logBucket); err != nil {
		return err
	}
	switch found := meta.Get(formatKey); {
	case found == nil:
		return meta.Put(formatKey, []byte(format))
	case string(found) != format:
		return fmt.Errorf("layout is %q, this version reads %q", found, format)
	case meta.Get(partialKey) != nil:
		return backend.ErrPartial
	}
	return nil
}
