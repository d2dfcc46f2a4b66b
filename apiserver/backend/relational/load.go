package relational

import (
	"context"
	"fmt"
	"iter"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/guard"
)

// layoutPartial is the layout of a database while it is loaded.
const layoutPartial = -1

const (
	partialStatement = `UPDATE skiff_meta SET layout = ? WHERE id = 1`
	loadedStatement  = `UPDATE skiff_meta SET layout = ?, revision = ?, compacted = ?, dropped = ? WHERE id = 1`
)

// Load fills the database, as backend.Loader says. What a load that did not
// come to its end wrote stays in the database, which says so.
func (b *Backend) Load(ctx context.Context, writes iter.Seq[backend.Entry], compacted, newest int64) error {
	result := make(chan error, 1)
	load := func() {
		result <- guard.Call("storage", func() error { return b.load(ctx, writes, compacted, newest) })
	}
	select {
	case b.work <- load: // the writer's, so that nothing is written in between
		return <-result
	case <-b.stopped:
		return backend.ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (b *Backend) load(ctx context.Context, writes iter.Seq[backend.Entry], compacted, newest int64) error {
	head, err := b.readHead(ctx)
	switch {
	case err != nil:
		return err
	case head.check() != nil:
		return head.check()
	case head.Revision > 0:
		return backend.ErrNotEmpty
	}
	if err := b.exec(ctx, partialStatement, int64(layoutPartial)); err != nil {
		return err
	}
	if err := b.loadWrites(ctx, writes); err != nil {
		return fmt.Errorf("fill storage: %w", err)
	}
	if err := b.exec(ctx, loadedStatement, int64(Layout), newest, compacted, compacted); err != nil {
		return err
	}
	b.reset(newest)
	b.saw(newest)
	return nil
}

// loadWrites inserts a transaction's worth at a time. To the others the database
// stays at its first revision.
func (b *Backend) loadWrites(ctx context.Context, writes iter.Seq[backend.Entry]) error {
	var batch []Write
	size := 0
	for entry := range writes {
		w := Write{Revision: entry.Revision, Key: entry.Key, Value: entry.Value}
		if !entry.End.IsZero() {
			w.Expiry = entry.End.UnixMilli()
		}
		batch = append(batch, w)
		size += len(w.Key) + len(w.Value)
		if len(batch) < maxBatch && size <= b.db.MaxBatch()-backend.MaxValue-MaxKey {
			continue
		}
		if err := b.insert(ctx, batch); err != nil {
			return err
		}
		batch, size = nil, 0
	}
	return b.insert(ctx, batch)
}

func (b *Backend) insert(ctx context.Context, batch []Write) error {
	return b.again(ctx, "write storage", func(ctx context.Context) error {
		t, err := b.begin(ctx, []string{""}) // no key is asked for
		if err != nil {
			return err
		}
		defer t.end()
		return t.commit(ctx, t.head, b.server, batch)
	})
}
