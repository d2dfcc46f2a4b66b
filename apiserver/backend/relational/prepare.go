package relational

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

var errNoHead = errors.New("skiff_meta is empty")

const (
	// firstHead is the row of a new database.
	firstHead = `INSERT INTO skiff_meta (id, layout, revision, compacted, dropped) SELECT 1, ?, 0, 0, 0
FROM (SELECT 1 AS one) t WHERE NOT EXISTS (SELECT 1 FROM skiff_meta)`
	// prepareTries is how often servers that start at once may be in each
	// other's way.
	prepareTries = 10
	// staleServer is when the row of a server that writes no more is removed.
	staleServer = 24 * time.Hour
)

// prepare makes the tables if they are not there, and returns the head of the
// database.
func (b *Backend) prepare(ctx context.Context) (Head, error) {
	var err error
	for range prepareTries {
		var head Head
		if head, err = b.selectHead(ctx); err == nil {
			return b.check(ctx, head)
		}
		if class := b.class(err); class != Refused {
			return Head{}, err
		}
		// There are no tables, or another server is making them.
		err = b.makeTables(ctx)
	}
	return Head{}, fmt.Errorf("the tables skiff_… can neither be read nor made: %w", err)
}

func (b *Backend) makeTables(ctx context.Context) error {
	for _, statement := range b.db.Schema() {
		if err := b.db.Exec(ctx, statement); err != nil {
			return err
		}
	}
	// The row comes last: where it is, all is.
	return b.db.Exec(ctx, firstHead, int64(Layout))
}

// check refuses tables of another layout, and clears away what servers left
// that are gone.
func (b *Backend) check(ctx context.Context, head Head) (Head, error) {
	if err := head.check(); err != nil {
		return Head{}, err
	}
	err := b.db.Exec(ctx, staleServersStatement, time.Now().Add(-staleServer).Unix())
	return head, err
}

func (h Head) check() error {
	switch h.Layout {
	case Layout:
		return nil
	case layoutPartial:
		return backend.ErrPartial
	}
	return fmt.Errorf("the layout of the tables is %d, this version reads %d", h.Layout, Layout)
}
