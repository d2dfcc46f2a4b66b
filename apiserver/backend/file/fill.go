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
func (b *Backend) Load(ctx context.Context, entries iter.Seq[backend.Entry], revision int64) error {
	return b.submit(&request{work: func() error { return b.fill(ctx, entries, revision) }})
}

// fill is done by the writer, so that nothing is written in between.
func (b *Backend) fill(ctx context.Context, entries iter.Seq[backend.Entry], revision int64) error {
	switch {
	case b.broken != nil:
		return b.broken
	case b.revision > 0:
		return backend.ErrNotEmpty
	}
	written, err := b.fillFile(ctx, entries, revision)
	if err != nil {
		b.broken = backend.ErrPartial
		return fmt.Errorf("fill storage: %w", err)
	}
	b.mu.Lock()
	for _, e := range written {
		b.index.Add(e.Key, e.Revision, false)
	}
	b.revision, b.compacted = revision, revision
	b.mu.Unlock()
	b.log.Skip(revision)
	for _, e := range written {
		if !e.End.IsZero() {
			b.lifetimes.Add(e.Key, e.Revision, e.End)
		}
	}
	return nil
}

// fillFile writes entries, a transaction's worth at a time, and returns them
// without their values.
func (b *Backend) fillFile(ctx context.Context, entries iter.Seq[backend.Entry], revision int64) (written []backend.Entry, err error) {
	next, stop := iter.Pull(entries)
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
		if err := meta.Put(compactedKey, revisionKey(revision)); err != nil {
			return err
		}
		return meta.Delete(partialKey)
	})
}

// fillLog puts as many entries as fit into a transaction. more tells whether
// others may follow.
func fillLog(log *bbolt.Bucket, next func() (backend.Entry, bool), written []backend.Entry) (_ []backend.Entry, more bool, err error) {
	for size := 0; size < maxBatchBytes; {
		e, ok := next()
		if !ok {
			return written, false, nil
		}
		r := record{key: e.Key, value: e.Value, end: e.End}
		if err := log.Put(revisionKey(e.Revision), r.encode()); err != nil {
			return written, false, err
		}
		size += len(e.Value)
		e.Value = nil
		written = append(written, e)
	}
	return written, true, nil
}
