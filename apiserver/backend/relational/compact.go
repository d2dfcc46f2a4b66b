package relational

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

const (
	// dropBatch is how many revisions a compaction goes through at a time, so
	// that writes get in between.
	dropBatch = 500
	// expireEvery is how often keys are looked for whose lifetime has passed,
	// and expireBatch how many are deleted at a time.
	expireEvery = time.Second
	expireBatch = 256
)

// Compact forgets history, as backend.Backend says. That it does is written
// first: an interrupted compaction is finished by the next one.
func (b *Backend) Compact(ctx context.Context, revision int64) error {
	head, err := b.readHead(ctx)
	switch {
	case err != nil:
		return err
	case revision > head.Revision:
		return backend.ErrFuture
	}
	if revision > head.Compacted {
		if err := b.exec(ctx, compactedStatement, revision, revision); err != nil {
			return err
		}
		b.log.Forget(revision)
	}
	return b.drop(ctx, head.Dropped, max(revision, head.Compacted))
}

// drop removes the rows that nobody can see who reads at a revision or later.
func (b *Backend) drop(ctx context.Context, from, revision int64) error {
	dropped := 0
	for from < revision {
		to := min(from+dropBatch, revision)
		unseen, err := b.unseen(ctx, from, to)
		if err != nil {
			return err
		}
		if len(unseen) > 0 {
			condition, args := b.db.Among("revision", unseen)
			if err := b.exec(ctx, dropStatement+condition, args...); err != nil {
				return err
			}
		}
		if err := b.exec(ctx, droppedStatement, to, to); err != nil {
			return err
		}
		from = to
		dropped += len(unseen)
	}
	if dropped == 0 {
		return nil
	}
	if err := b.db.Shrink(ctx); err != nil && ctx.Err() == nil {
		slog.Warn("Storage keeps the space of what was compacted", "database", b.db.Name(), "error", err)
	}
	return nil
}

// unseen returns the writes that a part of history replaced, and its deletes:
// all before that part, no key has more than one write. A delete goes together
// with what it deleted. To find the same part again does no harm.
func (b *Backend) unseen(ctx context.Context, from, to int64) (revisions []int64, err error) {
	err = b.again(ctx, "compact storage", func(ctx context.Context) error {
		revisions = revisions[:0]
		return eachRow(ctx, b.db, replacedStatement, []any{from, to}, func(rows *sql.Rows) error {
			var revision int64
			var deleted bool
			var replaced sql.NullInt64
			if err := rows.Scan(&revision, &deleted, &replaced); err != nil {
				return err
			}
			if deleted {
				revisions = append(revisions, revision)
			}
			if replaced.Valid {
				revisions = append(revisions, replaced.Int64)
			}
			return nil
		})
	})
	return revisions, err
}

func (b *Backend) exec(ctx context.Context, statement string, args ...any) error {
	return b.again(ctx, "compact storage", func(ctx context.Context) error {
		return b.db.Exec(ctx, statement, args...)
	})
}

// expire deletes keys whose lifetime has passed. All servers do: what another
// was quicker with is a conflict.
func (b *Backend) expire() {
	for b.wait(expireEvery) {
		for more := true; more && !b.closed(); {
			n, err := b.expireDue()
			if err != nil && !errors.Is(err, backend.ErrClosed) && !errors.Is(err, backend.ErrUnavailable) {
				slog.Error("Deleting what has expired", "database", b.db.Name(), "error", err)
			}
			more = err == nil && n == expireBatch
		}
	}
}

func (b *Backend) expireDue() (n int, err error) {
	due, err := b.due(time.Now())
	if err != nil {
		return 0, err
	}
	for _, r := range due {
		select {
		case b.requests <- r:
		case <-b.stopped:
			return 0, backend.ErrClosed
		}
	}
	for _, r := range due {
		select {
		case <-r.done:
		case <-b.stopped:
			return 0, backend.ErrClosed
		}
		if r.err != nil && !errors.Is(r.err, backend.ErrConflict) {
			err = fmt.Errorf("delete %s: %w", r.write.Key, r.err)
		}
	}
	return len(due), err
}

// due is a request for the deletion of each key whose time has come.
func (b *Backend) due(now time.Time) (requests []*request, err error) {
	err = b.again(b.ctx, "read storage", func(ctx context.Context) error {
		requests = requests[:0]
		return eachRow(ctx, b.db, dueStatement, []any{now.UnixMilli(), int64(expireBatch)}, func(rows *sql.Rows) error {
			var name []byte
			var revision int64
			if err := rows.Scan(&name, &revision); err != nil {
				return err
			}
			requests = append(requests, newRequest(Write{Key: string(name)}, revision))
			return nil
		})
	})
	return requests, err
}
