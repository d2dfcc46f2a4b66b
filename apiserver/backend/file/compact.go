package file

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"go.etcd.io/bbolt"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// dropBatch is how many records a compaction removes in a transaction. Writes get in
// between.
const dropBatch = 500

// Compact forgets history, as backend.Backend says, and then makes the file
// smaller if that is worth it. That takes a while and does not stop writes.
func (b *Backend) Compact(ctx context.Context, revision int64) error {
	select {
	case b.compacting <- struct{}{}:
	case <-b.stop:
		return backend.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-b.compacting }()
	b.mu.RLock()
	newest, compacted, closed := b.revision, b.compacted, b.closed
	b.mu.RUnlock()
	switch {
	case closed:
		return backend.ErrClosed
	case revision > newest:
		return backend.ErrFuture
	case revision <= compacted && len(b.dropped) == 0:
		return nil
	}
	if err := b.byWriter(func() error { return b.forget(revision) }); err != nil {
		return err
	}
	if err := b.drop(b.byWriter); err != nil {
		return err
	}
	b.shrink(ctx)
	return nil
}

// byWriter has the writer do something, between writes.
func (b *Backend) byWriter(work func() error) error { return b.submit(&request{work: work}) }

// forget makes history up to a revision unknown. That it is comes first: a compaction
// that ends here is finished when the file is opened again.
func (b *Backend) forget(revision int64) error {
	if revision <= b.compacted {
		return nil
	}
	if b.broken != nil {
		return b.broken
	}
	err := b.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(metaBucket).Put(compactedKey, revisionKey(revision))
	})
	if err != nil {
		return b.failed(fmt.Errorf("compact storage: %w", err))
	}
	b.mu.Lock()
	b.compacted = revision
	b.dropped = append(b.dropped, b.index.Compact(revision)...)
	b.mu.Unlock()
	slices.Sort(b.dropped) // neighbours are in the same pages
	b.log.Forget(revision)
	return nil
}

// drop removes the records nobody can see any more. What it does not come to is left to
// the next compaction. A transaction copies the pages that it changes: where the disk is
// full, a smaller one finds room for them in the file.
func (b *Backend) drop(do func(work func() error) error) error {
	for n := dropBatch; len(b.dropped) > 0; {
		n = min(n, len(b.dropped))
		switch err := do(func() error { return b.remove(b.dropped[:n]) }); {
		case full(err) && n > 1:
			n = max(1, n/8)
		case err != nil:
			return err
		default:
			b.dropped = b.dropped[n:]
			n = min(2*n, dropBatch)
		}
	}
	b.dropped = nil
	return nil
}

func (b *Backend) remove(revisions []int64) error {
	if b.broken != nil {
		return b.broken
	}
	err := b.db.Update(func(tx *bbolt.Tx) error {
		log := tx.Bucket(logBucket)
		for _, revision := range revisions {
			if err := log.Delete(revisionKey(revision)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return b.failed(fmt.Errorf("compact storage: %w", err))
	}
	return nil
}

// full tells the errors of a disk that has no room, or of a limit on files.
func full(err error) bool {
	return err != nil && slices.ContainsFunc([]error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG}, func(e error) bool {
		// bbolt does not wrap the error of growing the file, but ends with it.
		return errors.Is(err, e) || strings.HasSuffix(err.Error(), e.Error())
	})
}
