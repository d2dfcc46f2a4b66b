package file

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"time"

	"go.etcd.io/bbolt"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// Bounds of one transaction.
const (
	maxBatch      = 512
	maxBatchBytes = 8 << 20
)

// request is a write on its way to the file, or other work for the writer.
type request struct {
	record   record
	expected int64
	work     func() error // to be done in place of a write; nil: a write

	revision int64 // the result
	err      error
	behind   bool // err is for what another write of the batch would have made of the key
	done     chan struct{}
}

// Put writes a key, as backend.Backend says.
func (b *Backend) Put(ctx context.Context, key string, value []byte, expected int64, life time.Duration) (int64, error) {
	if value == nil {
		value = []byte{} // nil means deleted
	}
	r := &request{record: record{key: key, value: value}, expected: expected}
	if life > 0 {
		r.record.end = time.Now().Add(life)
	}
	if err := b.submit(r); err != nil {
		return 0, err
	}
	if life > 0 {
		b.lifetimes.Add(key, r.revision, r.record.end)
	}
	return r.revision, nil
}

// Delete removes a key, as backend.Backend says.
func (b *Backend) Delete(ctx context.Context, key string, expected int64) (int64, error) {
	if expected == backend.Absent {
		return 0, backend.ErrConflict
	}
	r := &request{record: record{key: key, deleted: true}, expected: expected}
	err := b.submit(r)
	return r.revision, err
}

// submit hands r to the writer and waits for the result. It does not end with
// the caller's context: a write once begun is either there or not, and the
// caller must learn which.
func (b *Backend) submit(r *request) error {
	if err := b.precheck(r); err != nil {
		return err
	}
	r.done = make(chan struct{})
	select {
	case b.requests <- r:
	case <-b.stop:
		return backend.ErrClosed
	}
	select {
	case <-r.done:
		return r.err
	case <-b.stopped:
		// The writer answers what it takes before it stops.
		select {
		case <-r.done:
			return r.err
		default:
			return backend.ErrClosed
		}
	}
}

// precheck refuses what cannot succeed without waiting for the file.
func (b *Backend) precheck(r *request) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return backend.ErrClosed
	}
	if r.work == nil && b.index.Current(r.record.key) != r.expected {
		return backend.ErrConflict
	}
	return nil
}

// write is the one writer: it puts what has arrived into one transaction,
// syncs it, and answers.
func (b *Backend) write() {
	defer close(b.stopped)
	for {
		select {
		case <-b.stop:
			return
		case r := <-b.requests:
			b.commit(b.gather(r))
		}
	}
}

// gather takes the requests that are waiting already.
func (b *Backend) gather(first *request) []*request {
	// Of the writers that were answered a moment ago, one has been quick enough
	// to come again. Let the others run too, so that they share the transaction.
	runtime.Gosched()
	batch := []*request{first}
	size := len(first.record.value)
	for len(batch) < maxBatch && size < maxBatchBytes {
		select {
		case r := <-b.requests:
			batch = append(batch, r)
			size += len(r.record.value)
		default:
			return batch
		}
	}
	return batch
}

// commit writes a batch and answers its requests.
func (b *Backend) commit(batch []*request) {
	writes := b.order(batch)
	err := b.store(writes)
	if err == nil {
		b.publish(writes)
	}
	for _, r := range batch {
		switch {
		case r.work != nil:
			r.err = r.work()
		case err != nil && (r.err == nil || r.behind):
			r.err = err // a conflict with what was not written is none
		}
		close(r.done)
	}
}

// order gives revisions to the writes of a batch that find the revision they
// expect, counting those before them in the batch, and refuses the others.
func (b *Backend) order(batch []*request) (writes []*request) {
	current := make(map[string]int64) // of the keys written in this batch
	next := b.revision                // only this goroutine changes it
	for _, r := range batch {
		if r.work != nil {
			continue
		}
		at, behind := current[r.record.key]
		if !behind {
			at = b.index.Current(r.record.key)
		}
		if at != r.expected {
			r.err, r.behind = backend.ErrConflict, behind
			continue
		}
		next++
		r.revision = next
		current[r.record.key] = next
		if r.record.deleted {
			current[r.record.key] = backend.Absent
		}
		writes = append(writes, r)
	}
	return writes
}

// store writes and syncs the records of a batch.
func (b *Backend) store(writes []*request) error {
	if len(writes) == 0 {
		return nil
	}
	if b.broken != nil {
		return b.broken
	}
	err := b.db.Update(func(tx *bbolt.Tx) error {
		log := tx.Bucket(logBucket)
		log.FillPercent = 1 // revisions only ascend, so pages fill up and are left
		if err := dropAfter(log, b.revision); err != nil {
			return err
		}
		for _, w := range writes {
			if err := log.Put(revisionKey(w.revision), w.record.encode()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return b.failed(fmt.Errorf("write storage: %w", err))
	}
	return nil
}

// failed decides whether writes can go on after an error. A full disk is found
// before anything is lost, and may have room later. After any other error,
// a failed sync above all, the system may have thrown away pages it reports as
// clean, so that a later success would mean nothing: only opening the file
// anew, which reads what really is there, makes it writable again.
func (b *Backend) failed(err error) error {
	if !full(err) {
		b.broken = endsWriting(err)
		return b.broken
	}
	return err
}

func endsWriting(err error) error {
	return fmt.Errorf("storage takes no more writes until it is opened anew: %w", err)
}

// dropAfter removes what a transaction left behind that failed so late (in the
// last sync) that it is in the file all the same: its writers got an error, and
// its revisions will be given to others.
func dropAfter(log *bbolt.Bucket, revision int64) error {
	cursor := log.Cursor()
	for k, _ := cursor.Last(); k != nil && bytes.Compare(k, revisionKey(revision)) > 0; k, _ = cursor.Last() {
		if err := log.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// publish lets readers and watchers see a batch that is on disk.
func (b *Backend) publish(writes []*request) {
	if len(writes) == 0 {
		return
	}
	changes := make([]backend.Change, len(writes))
	b.mu.Lock()
	for i, w := range writes {
		b.index.Add(w.record.key, w.revision, w.record.deleted)
		changes[i] = w.record.change(w.revision)
	}
	b.revision = writes[len(writes)-1].revision
	b.mu.Unlock()
	b.log.Append(changes...)
}
