package relational

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

const (
	// changesBatch and changesBytes are how many changes are read at a time.
	changesBatch = 512
	changesBytes = 8 << 20
	// faultPause is how long the follower waits after an error.
	faultPause = time.Second
)

// follow keeps the log up with the database.
func (b *Backend) follow() {
	for !b.closed() {
		err := b.catchUp()
		pause := b.db.Poll(b.notified.Load())
		if err != nil && !b.closed() && !errors.Is(err, backend.ErrConflict) {
			// An outage has been logged where it was noticed.
			if !errors.Is(err, backend.ErrUnavailable) {
				slog.Error("Following storage", "database", b.db.Name(), "error", err)
			}
			pause = faultPause
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-b.behind:
		case <-b.stop:
		}
		timer.Stop()
	}
}

// catchUp reads changes until there are no more.
func (b *Backend) catchUp() error {
	for {
		after, seen := b.log.Last(), b.newest.Load()
		head, changes, err := b.read(b.ctx, after)
		switch {
		case errors.Is(err, backend.ErrCompacted):
			b.reset(head.Revision)
			continue
		case err != nil:
			return err
		case head.Revision < seen:
			// The writer finds that the database has lost commits, and mends it.
			_, err := b.submit(b.ctx, newRequest(Write{}, nothing))
			return err
		}
		b.saw(head.Revision)
		if len(changes) == 0 && b.log.Last() >= head.Revision {
			return nil
		}
		b.append(changes)
	}
}

// nothing is a revision no key is at.
const nothing = -1

// read is selectChanges, for as long as the database may be away.
func (b *Backend) read(ctx context.Context, after int64) (head Head, changes []backend.Change, err error) {
	err = b.again(ctx, "read storage", func(ctx context.Context) error {
		head, changes, err = b.selectChanges(ctx, after)
		return err
	})
	return head, changes, err
}

// older reads changes after a revision that are not in the log any more. While
// the database is away it waits.
func (b *Backend) older(ctx context.Context, after int64) ([]backend.Change, error) {
	for {
		_, changes, err := b.read(ctx, after)
		if !errors.Is(err, backend.ErrUnavailable) {
			return changes, err
		}
		if !b.wait(faultPause) {
			return nil, backend.ErrClosed
		}
	}
}

// append adds to the log those of some changes that follow what it has. Others
// it has already, or the follower will read them.
func (b *Backend) append(changes []backend.Change) {
	b.publish.Lock()
	defer b.publish.Unlock()
	last := b.log.Last()
	for len(changes) > 0 && changes[0].Revision <= last {
		changes = changes[1:]
	}
	if len(changes) > 0 && changes[0].Revision == last+1 {
		b.log.Append(changes...)
	}
}

// reset gives up the changes between what the log has and a revision.
func (b *Backend) reset(revision int64) {
	b.publish.Lock()
	defer b.publish.Unlock()
	b.log.Reset(revision)
}

// contiguous is an error if changes are not all that follow a revision.
func contiguous(after int64, changes []backend.Change) error {
	for i, c := range changes {
		if want := after + 1 + int64(i); c.Revision != want {
			return fmt.Errorf("revision %d is missing from skiff_writes", want)
		}
	}
	return nil
}

// listen is told of the writes of others for as long as the database does that.
func (b *Backend) listen() {
	for !b.closed() {
		err := b.db.Listen(b.ctx, b.server, func(revision int64) {
			b.notified.Store(true)
			if revision > b.newest.Load() { // it says so: another schema's servers may
				b.wakeFollower()
			}
		})
		b.notified.Store(false)
		if err == nil {
			return
		}
		b.wakeFollower() // something may have been missed
		b.wait(faultPause)
	}
}
