package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// atOnce is how many entries are asked for at a time: a member has all of an answer in memory.
const atOnce = 500

// List reads entries, as backend.Backend says.
func (b *Backend) List(ctx context.Context, prefix, after string, limit int, revision int64) (backend.Page, error) {
	for {
		page, err := b.list(ctx, prefix, after, limit, revision)
		if revision == 0 && errors.Is(err, backend.ErrCompacted) {
			continue // the newest revision grew old while the entries were read
		}
		return page, err
	}
}

func (b *Backend) list(ctx context.Context, prefix, after string, limit int, revision int64) (backend.Page, error) {
	page := backend.Page{Revision: revision}
	for {
		want := atOnce
		if limit > 0 {
			want = min(atOnce, limit-len(page.Entries))
		}
		r, err := b.rangeOf(ctx, prefix, after, want, page.Revision)
		if err != nil {
			return backend.Page{}, err
		}
		if page.Revision == 0 {
			page.Revision = r.Header.Revision
		}
		entries, err := b.entries(ctx, r.Kvs)
		if err != nil {
			return backend.Page{}, err
		}
		page.Entries = append(page.Entries, entries...)
		page.More = r.Count - int64(len(r.Kvs))
		if page.More == 0 || len(page.Entries) == limit {
			return page, nil
		}
		after = page.Entries[len(page.Entries)-1].Key
	}
}

func (b *Backend) rangeOf(ctx context.Context, prefix, after string, limit int, revision int64) (r *clientv3.GetResponse, err error) {
	first, end := span(prefix)
	if after >= prefix {
		first = after + "\x00"
	}
	if end != all && first >= end {
		// Nothing follows. The revision is asked for all the same.
		first, end, limit = compactKey, "", 1
		defer func() {
			if r != nil {
				r.Kvs, r.Count = nil, 0
			}
		}()
	}
	err = b.call(ctx, repeatable, func(ctx context.Context) (err error) {
		r, err = b.client.Get(ctx, first, clientv3.WithRange(end), clientv3.WithLimit(int64(limit)), clientv3.WithRev(revision))
		return err
	})
	return r, err
}

// all is the end of a range that holds every key from its first on.
const all = "\x00"

// span is the range of keys that begin with prefix: from first up to but not including end.
func span(prefix string) (first, end string) {
	if prefix == "" {
		return "\x00", all
	}
	return prefix, clientv3.GetPrefixRangeEnd(prefix)
}

func (b *Backend) entries(ctx context.Context, kvs []*mvccpb.KeyValue) ([]backend.Entry, error) {
	entries := make([]backend.Entry, 0, len(kvs))
	for _, kv := range kvs {
		end, err := b.endOf(ctx, clientv3.LeaseID(kv.Lease))
		if err != nil {
			return nil, err
		}
		entries = append(entries, backend.Entry{Key: string(kv.Key), Value: value(kv), Revision: kv.ModRevision, End: end})
	}
	return entries, nil
}

// value is never nil, which would mean deleted.
func value(kv *mvccpb.KeyValue) []byte {
	if kv.Value == nil {
		return []byte{}
	}
	return kv.Value
}
