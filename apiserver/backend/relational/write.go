package relational

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/guard"
)

// maxBatch is how many writes a transaction has at most.
const maxBatch = 512

// request is a write on its way to the database.
type request struct {
	write    Write
	expected int64
	state    atomic.Int32 // waiting, then taken or abandoned

	err  error // the result; the revision is in write
	done chan struct{}
}

// States of a request.
const (
	waiting   = iota
	taken     // by the writer: the outcome is the database's
	abandoned // by the caller: it will not be written
)

// Put writes a key, as backend.Backend says. When ctx ends while the write is
// under way, it may happen.
func (b *Backend) Put(ctx context.Context, key string, value []byte, expected int64, life time.Duration) (int64, error) {
	if value == nil {
		value = []byte{} // nil means deleted
	}
	w := Write{Key: key, Value: value}
	if life > 0 {
		w.Expiry = time.Now().Add(life).UnixMilli()
	}
	return b.submit(ctx, newRequest(w, expected))
}

// Delete removes a key, as backend.Backend says. When ctx ends while the write
// is under way, it may happen.
func (b *Backend) Delete(ctx context.Context, key string, expected int64) (int64, error) {
	if expected == backend.Absent {
		return 0, backend.ErrConflict
	}
	return b.submit(ctx, newRequest(Write{Key: key}, expected))
}

func newRequest(w Write, expected int64) *request {
	return &request{write: w, expected: expected, done: make(chan struct{})}
}

// submit hands r to the writer, waits for room if there is none, and for the
// result.
func (b *Backend) submit(ctx context.Context, r *request) (int64, error) {
	switch {
	case b.closed():
		return 0, backend.ErrClosed
	case len(r.write.Key) > MaxKey:
		return 0, fmt.Errorf("a key of %d bytes is too long: it can have %d", len(r.write.Key), MaxKey)
	}
	select {
	case b.requests <- r:
	case <-b.stopped:
		return 0, backend.ErrClosed
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	select {
	case <-r.done:
		return r.result()
	case <-ctx.Done():
		r.state.CompareAndSwap(waiting, abandoned)
		return 0, context.Cause(ctx)
	case <-b.stopped:
		// The writer answers what it takes before it stops.
		select {
		case <-r.done:
			return r.result()
		default:
			return 0, backend.ErrClosed
		}
	}
}

func (r *request) result() (int64, error) {
	if r.err != nil {
		return 0, r.err
	}
	return r.write.Revision, nil
}

// write is the one writer: it puts what has arrived into one transaction and
// answers.
func (b *Backend) write() {
	defer close(b.stopped)
	for {
		select {
		case <-b.stop:
			return
		case do := <-b.work:
			do()
		case r := <-b.requests:
			b.commit(b.gather(r))
		}
	}
}

// gather takes the requests that are waiting already.
func (b *Backend) gather(first *request) (batch []*request) {
	// Of the writers that were answered a moment ago, one has been quick enough
	// to come again. Let the others run too, so that they share the transaction.
	runtime.Gosched()
	size := 0
	for r := first; ; {
		if r.state.CompareAndSwap(waiting, taken) {
			batch = append(batch, r)
			size += len(r.write.Key) + len(r.write.Value)
		}
		if len(batch) == maxBatch || size > b.db.MaxBatch()-backend.MaxValue-MaxKey {
			return batch
		}
		select {
		case r = <-b.requests:
		default:
			return batch
		}
	}
}

// commit writes a batch and answers its requests. If the database refuses it,
// each is tried alone: the fault may be of one, or the disk may be so full that
// only deletes fit.
func (b *Backend) commit(batch []*request) {
	if len(batch) == 0 {
		return // all have been abandoned
	}
	err := guard.Call("storage", func() error { return b.transact(batch) })
	if err != nil && len(batch) > 1 && !errors.Is(err, backend.ErrUnavailable) && !errors.Is(err, backend.ErrClosed) {
		for _, r := range batch {
			b.commit([]*request{r})
		}
		return
	}
	for _, r := range batch {
		if err != nil {
			r.err = err
		}
		close(r.done)
	}
}

// transact decides and writes a batch in one transaction, and again until that
// is committed or cannot be.
func (b *Backend) transact(batch []*request) error {
	a := &attempts{batch: batch}
	for _, r := range batch {
		a.keys = append(a.keys, r.write.Key)
	}
	return b.again(b.ctx, "write storage", func(ctx context.Context) error { return b.attempt(ctx, a) })
}

// attempts are the transactions in which a batch is tried.
type attempts struct {
	batch []*request
	keys  []string
	doubt *plan // was committed in the last attempt, or not
}

func (b *Backend) attempt(ctx context.Context, a *attempts) error {
	seen := b.newest.Load()
	t, err := b.begin(ctx, a.keys)
	if err != nil {
		return err
	}
	defer t.end()
	if err := t.head.check(); err != nil {
		return err
	}
	if a.doubt != nil {
		// The lock that begin took has waited for the end of that transaction.
		last, err := t.tx.Own(ctx, b.server)
		if err != nil {
			return err
		}
		if last == a.doubt.head.Revision {
			b.committed(a.doubt)
			return nil
		}
		a.doubt = nil
	}
	p := decide(a.batch, t.head, seen, t.current)
	if p.empty() && b.keeps(t.head.Revision) {
		b.saw(t.head.Revision)
		return nil
	}
	if err := t.commit(ctx, p.head, b.server, p.writes); err != nil {
		if b.class(err) != Refused {
			a.doubt = p
		}
		return err
	}
	b.committed(p)
	return nil
}

// keeps reports whether what is refused because of a revision may be told: that
// the revision outlives the database's death. Else an empty transaction sees to it.
func (b *Backend) keeps(revision int64) bool {
	_, early := b.db.(Early)
	return !early || revision <= b.kept.Load()
}

// plan is what a transaction writes.
type plan struct {
	head   Head // as it will be
	writes []Write
	cut    int64 // if not 0, history up to this revision is given up
}

func (p *plan) empty() bool { return len(p.writes) == 0 && p.cut == 0 }

// decide gives revisions to the writes of a batch that find the revision they
// expect, counting those before them in the batch, and refuses the others.
//
// A head older than one that this server has seen committed means that the
// database has lost commits, by a fail-over or a restored copy. The revisions
// are not given a second time: they are skipped, and history before the next
// one is given up, so that whoever has seen what was lost starts over.
func decide(batch []*request, head Head, seen int64, current func(string) int64) *plan {
	p := &plan{head: head}
	if head.Revision < seen {
		p.cut = seen + 1
		p.head.Revision, p.head.Compacted = p.cut, p.cut
	}
	written := make(map[string]int64) // the keys' revisions as of this batch
	for _, r := range batch {
		at, ok := written[r.write.Key]
		if !ok {
			at = current(r.write.Key)
		}
		r.err = nil
		if at != r.expected {
			r.err = backend.ErrConflict
			continue
		}
		p.head.Revision++
		r.write.Revision = p.head.Revision
		written[r.write.Key] = r.write.Revision
		if r.write.Value == nil {
			written[r.write.Key] = backend.Absent
		}
		p.writes = append(p.writes, r.write)
	}
	return p
}

// committed lets watchers see a transaction. If others have written before it
// what this server has not read yet, the follower reads all together.
func (b *Backend) committed(p *plan) {
	changes := make([]backend.Change, len(p.writes))
	for i, w := range p.writes {
		changes[i] = backend.Change{Key: w.Key, Value: w.Value, Revision: w.Revision}
	}
	if p.cut > 0 {
		b.reset(p.cut)
	}
	raise(&b.kept, p.head.Revision)
	b.append(changes)
	b.saw(p.head.Revision)
}
