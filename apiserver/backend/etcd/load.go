package etcd

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/guard"
)

// partialKey is there while an etcd is filled. It is written at each revision
// that nothing else is written at.
const partialKey = "skiff/partial"

const (
	// fresh is the revision of an etcd that was never written to.
	fresh = 1
	// atOnceFilling is how many revisions are made at a time where nothing is written.
	atOnceFilling = 64
	// tooMany revisions would take etcd more than an hour to make, and fill its disk.
	tooMany = 50_000_000
	// many revisions take long enough to be spoken of.
	many = 100_000
	// soon is when a lifetime might end before a load has.
	soon = time.Hour
)

// Load fills etcd, as backend.Loader says. Revisions are made by writing: a
// million takes etcd a minute or so. What has revision 1 elsewhere gets 2, the
// first that etcd gives.
func (b *Backend) Load(ctx context.Context, writes iter.Seq[backend.Entry], compacted, newest int64) error {
	at, err := b.Revision(ctx)
	if err != nil {
		return err
	}
	if at > fresh {
		return backend.ErrNotEmpty
	}
	if newest-at > b.MostSteps() {
		return fmt.Errorf("fill storage: etcd makes revisions by being written to, and %d are too many; %s", newest-at, howToLeaveOut)
	}
	if newest-at > many {
		slog.Info("etcd makes revisions one by one, which takes a while", "revisions", newest-at)
	}
	// Lifetimes that would end meanwhile would take revisions. Their leases are
	// kept alive, and last as long as they should from then on.
	alive, end := context.WithCancel(ctx)
	defer end()
	l := &load{client: b.client, at: fresh, alive: alive, leases: make(map[int64]clientv3.LeaseID)}
	b.partial.Store(true)
	if err := l.fill(ctx, writes, compacted, max(newest, fresh+1)); err != nil {
		return fmt.Errorf("fill storage: %w", err)
	}
	b.partial.Store(false)
	return nil
}

// howToLeaveOut is what etcd's tools can do in a moment, with its files.
const howToLeaveOut = "restore a backup with --bump-revision 0, and then have etcd leave revisions out: " +
	"etcdctl snapshot save FILE; etcdutl snapshot restore FILE --bump-revision 1000000000 --mark-compacted --data-dir NEW"

// MostSteps is as backend.Stepper says.
func (b *Backend) MostSteps() int64 { return tooMany }

// checkWhole is ErrPartial for an etcd that was not filled to the end.
func (b *Backend) checkWhole(ctx context.Context) error {
	return b.call(ctx, repeatable, func(ctx context.Context) error {
		r, err := b.client.Get(ctx, partialKey, clientv3.WithCountOnly())
		if err == nil && r.Count > 0 {
			err = backend.ErrPartial
		}
		return err
	})
}

// load is a Load under way. Nothing of it is tried again: what may have been
// written has taken a revision.
type load struct {
	client *clientv3.Client
	at     int64 // the newest revision
	alive  context.Context
	leases map[int64]clientv3.LeaseID // by the second they end
}

func (l *load) fill(ctx context.Context, writes iter.Seq[backend.Entry], compacted, newest int64) error {
	var together []backend.Entry // of the same revision
	for entry := range writes {
		if entry.Revision = max(entry.Revision, fresh+1); len(together) > 0 && together[0].Revision != entry.Revision {
			if err := l.write(ctx, together, newest); err != nil {
				return err
			}
			together = together[:0]
		}
		together = append(together, entry)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.write(ctx, together, newest); err != nil {
		return err
	}
	if l.at < newest {
		if err := l.pass(ctx, newest-1); err != nil {
			return err
		}
		if err := l.commit(ctx, clientv3.OpDelete(partialKey)); err != nil {
			return err
		}
	}
	if compacted <= fresh {
		return nil
	}
	_, err := l.client.Compact(ctx, compacted)
	return err
}

// write writes entries at the revision they have. With the newest, the load is whole.
func (l *load) write(ctx context.Context, entries []backend.Entry, newest int64) error {
	if len(entries) == 0 {
		return nil
	}
	revision := entries[0].Revision
	if revision <= l.at || revision > newest {
		return fmt.Errorf("an entry of revision %d came after %d, and before the newest, %d", revision, l.at, newest)
	}
	if err := l.pass(ctx, revision-1); err != nil {
		return err
	}
	var ops []clientv3.Op
	for _, entry := range entries {
		op, err := l.op(ctx, entry)
		if err != nil {
			return err
		}
		ops = append(ops, op)
	}
	switch {
	case revision == newest && l.at > fresh:
		ops = append(ops, clientv3.OpDelete(partialKey))
	case l.at == fresh && revision != newest:
		ops = append(ops, clientv3.OpPut(partialKey, ""))
	}
	return l.commit(ctx, ops...)
}

func (l *load) op(ctx context.Context, entry backend.Entry) (clientv3.Op, error) {
	if entry.Value == nil {
		return clientv3.OpDelete(entry.Key), nil
	}
	if entry.End.IsZero() {
		return clientv3.OpPut(entry.Key, string(entry.Value)), nil
	}
	lease, err := l.lease(ctx, entry.End)
	return clientv3.OpPut(entry.Key, string(entry.Value), clientv3.WithLease(lease)), err
}

func (l *load) lease(ctx context.Context, end time.Time) (clientv3.LeaseID, error) {
	second := end.Unix()
	if id, ok := l.leases[second]; ok {
		return id, nil
	}
	left := time.Until(end)
	granted, err := l.client.Grant(ctx, max(1, int64(left.Round(time.Second).Seconds())))
	if err != nil {
		return 0, err
	}
	l.leases[second] = granted.ID
	if left > soon {
		return granted.ID, nil
	}
	answers, err := l.client.KeepAlive(l.alive, granted.ID)
	if err != nil {
		return 0, err
	}
	guard.Go("leases of a load", func() { // until the load ends
		for range answers {
		}
	})
	return granted.ID, nil
}

// commit makes one revision.
func (l *load) commit(ctx context.Context, ops ...clientv3.Op) error {
	r, err := l.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return err
	}
	return l.reached(r.Header.Revision, l.at+1)
}

// pass makes revisions up to one, at which nothing is written.
func (l *load) pass(ctx context.Context, revision int64) error {
	var made, newest atomic.Int64
	missing := revision - l.at
	g, ctx := errgroup.WithContext(ctx)
	for range min(missing, atOnceFilling) {
		g.Go(guard.Try("revisions of a load", func() error {
			for made.Add(1) <= missing {
				r, err := l.client.Put(ctx, partialKey, "")
				if err != nil {
					return err
				}
				for seen := newest.Load(); seen < r.Header.Revision && !newest.CompareAndSwap(seen, r.Header.Revision); seen = newest.Load() {
				}
			}
			return nil
		}))
	}
	if err := g.Wait(); err != nil || missing <= 0 {
		return err
	}
	return l.reached(newest.Load(), revision)
}

func (l *load) reached(revision, want int64) error {
	if revision != want {
		return fmt.Errorf("etcd is at revision %d instead of %d: another program writes to it", revision, want)
	}
	l.at = revision
	return nil
}
