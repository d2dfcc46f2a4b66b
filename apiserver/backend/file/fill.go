package file

import (
	"context"
	"fmt"
	"iter"

	"go.etcd.io/bbolt"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// Load fills the file, as backend.Loader says. What a load that did not come to
// its end wrote stays in the file, which says so.
func (b *Backend) Load(ctx context.Context, writes iter.Seq[backend.Entry], compacted, newest int64) error {
	return b.byWriter(func() error { return b.fill(ctx, writes, compacted, newest) })
}

// fill is done by the writer, so that nothing is written in between.
func (b *Backend) fill(ctx context.Context, writes iter.Seq[backend.Entry], compacted, newest int64) error {
	switch {
	case b.broken != nil:
		return b.broken
	case b.revision > 0:
		return backend.ErrNotEmpty
	}
	written, err := b.fillFile(ctx, writes, compacted)
	if err != nil {
		b.broken = backend.ErrPartial
		return fmt.Errorf("fill storage: %w", err)
	}
	b.mu.Lock()
	for _, w := range written {
		b.index.Add(w.record.key, w.revision, w.record.deleted)
	}
	b.revision, b.compacted = newest, compacted
	b.mu.Unlock()
	b.log.Reset(newest)
	for _, w := range written {
		if !w.record.end.IsZero() {
			b.lifetimes.Add(w.record.key, w.revision, w.record.end)
		}
	}
	return nil
}

// filled is what is remembered of a write that fill put into the file.
type filled struct {
	record   record // without its value
	revision int64
}

// fillFile writes a transaction's worth at a time.
func (b *Backend) fillFile(ctx context.Context, writes iter.Seq[backend.Entry], compacted int64) (written []filled, err error) {
	next, stop := iter.Pull(writes)
	defer stop()
	if err := b.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Put(partialKey, []byte("yes")) }); err != nil {
		return nil, err
	}
	for more := true; more; {
		err := b.db.Update(func(tx *bbolt.Tx) (err error) {
			log := tx.Bucket(logBucket)
			log.FillPercent = 1 // revisions only ascend, so pages fill up and are left
			written, more, err = fillLog(log, next, written)
			return err
		})
		if err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil { // which may be why there are no more
			return nil, err
		}
	}
	return written, b.db.Update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if err := meta.Put(compactedKey, revisionKey(compacted)); err != nil {
			return err
		}
		return meta.Delete(partialKey)
	})
}

// fillLog puts as many writes as fit into a transaction. more tells whether
// others may follow.
func fillLog(log *bbolt.Bucket, next func() (backend.Entry, bool), written []filled) (_ []filled, more bool, err error) {
	for size := 0; size < maxBatchBytes; {
		w, ok := next()
		if !ok {
			return written, false, nil
		}
		r := record{key: w.Key, value: w.Value, deleted: w.Value == nil, end: w.End}
		if err := log.Put(revisionKey(w.Revision), r.encode()); err != nil {
			return written, false, err
		}
		size += len(r.value)
		r.value = nil
		written = append(written, filled{r, w.Revision})
	}
	return written, true, nil
}
