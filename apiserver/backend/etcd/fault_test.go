package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/etcd"
)

// writing is a number of writers, each of a key of its own, and a watch of all they write.
type writing struct {
	backend *etcd.Backend
	stop    context.CancelFunc
	done    sync.WaitGroup
	started atomic.Int64 // writes that were acknowledged

	mu    sync.Mutex
	acked map[string]int64 // key=value to the revision of an acknowledged write
	seen  map[string]int64 // what the watch has seen
	last  int64            // it has seen
}

const writers = 8

// write starts to write and to watch.
func write(t *testing.T, b *etcd.Backend) *writing {
	w := &writing{backend: b, acked: make(map[string]int64), seen: make(map[string]int64)}
	ctx, stop := context.WithCancel(t.Context())
	w.stop = stop
	first, err := b.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range writers {
		w.done.Go(func() { w.writer(ctx, t, fmt.Sprintf("/w/%d", i)) })
	}
	go w.watch(t, first)
	return w
}

func (w *writing) writer(ctx context.Context, t *testing.T, key string) {
	var at int64
	for n := 0; ctx.Err() == nil; n++ {
		value := fmt.Sprint(n)
		revision, err := w.backend.Put(context.WithoutCancel(ctx), key, []byte(value), at, 0)
		switch unknown := (*etcd.UnknownError)(nil); {
		case err == nil:
			at = revision
			w.started.Add(1)
			w.mu.Lock()
			w.acked[key+"="+value] = revision
			w.mu.Unlock()
		case errors.As(err, &unknown):
			entry, _, err := w.backend.Get(context.WithoutCancel(ctx), key)
			if err != nil && !errors.Is(err, backend.ErrNotFound) {
				t.Errorf("get %s after a write of which nothing is known: %v", key, err)
				return
			}
			at = entry.Revision
		default:
			t.Errorf("put %s at %d: %v", key, at, err)
			return
		}
	}
}

func (w *writing) watch(t *testing.T, after int64) {
	for c, err := range w.backend.Watch(t.Context(), "/w/", after) {
		if err != nil {
			return // the test ends
		}
		w.mu.Lock()
		if c.Key != "" {
			what := fmt.Sprintf("%s=%s", c.Key, c.Value)
			if before, twice := w.seen[what]; twice || c.Revision <= w.last {
				t.Errorf("the watch saw %s at %d after %d; before at %d", what, c.Revision, w.last, before)
			}
			w.seen[what] = c.Revision
		}
		w.last = max(w.last, c.Revision)
		w.mu.Unlock()
	}
}

// more waits until n more writes were acknowledged.
func (w *writing) more(t *testing.T, n int64) {
	t.Helper()
	want := w.started.Load() + n
	eventually(t, "writes go on", func() bool { return w.started.Load() >= want })
}

// end checks that every acknowledged write was seen, at its revision.
func (w *writing) end(t *testing.T) {
	t.Helper()
	w.stop()
	w.done.Wait()
	newest, err := w.backend.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the watch gets to the end", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.last >= newest
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	for what, revision := range w.acked {
		if w.seen[what] != revision {
			t.Errorf("%s was acknowledged at %d, but seen at %d (0: never)", what, revision, w.seen[what])
		}
	}
	t.Logf("%d writes acknowledged, %d seen", len(w.acked), len(w.seen))
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// An etcd that is killed and started again, or stopped for a while, loses nothing that was acknowledged; watches go on.
func TestKilledAndStopped(t *testing.T) {
	m := cluster(t, 1)[0]
	b := open(t, m)
	defer b.Close()
	w := write(t, b)
	for range 2 {
		w.more(t, 200)
		m.kill(t)
		m.start(t)
		w.more(t, 200)
		m.signal(t, syscall.SIGSTOP)
		time.AfterFunc(3*time.Second, func() { m.signal(t, syscall.SIGCONT) })
		w.more(t, 200)
	}
	w.end(t)
}

// Of three members, the leader is killed.
func TestLeaderKilled(t *testing.T) {
	members := cluster(t, 3)
	b := open(t, members...)
	defer b.Close()
	w := write(t, b)
	for range 2 {
		w.more(t, 100)
		leader := leaderOf(t, members)
		leader.kill(t)
		w.more(t, 100)
		leader.start(t)
		leader.wait(t)
	}
	w.end(t)
}

func leaderOf(t *testing.T, members []*member) *member {
	t.Helper()
	for _, m := range members {
		client := raw(t, m)
		status, err := client.Status(t.Context(), m.client)
		client.Close()
		if err != nil {
			t.Fatal(err)
		}
		if status.Leader == status.Header.MemberId {
			return m
		}
	}
	t.Fatal("no member is the leader")
	return nil
}

// An etcd that is not there is an error that says so, and no longer one when it is back.
func TestLost(t *testing.T) {
	m := cluster(t, 1)[0]
	b := open(t, m)
	defer b.Close()
	m.kill(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := b.Revision(ctx); err == nil {
		t.Error("there is a revision though etcd is not there")
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := b.Put(ctx, "/a", []byte("1"), backend.Absent, 0)
	if err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(m.client, "http://")) {
		t.Errorf("put: got %v, want an error that names the address", err)
	}
	m.start(t)
	m.wait(t)
	if _, err := b.Put(t.Context(), "/a", []byte("1"), backend.Absent, 0); err != nil {
		t.Errorf("put when etcd is back: %v", err)
	}
}

// Without space, writes fail and say why, deletes and compaction go on, and when there is space again so do writes.
func TestNoSpace(t *testing.T) {
	m := cluster(t, 1, "--quota-backend-bytes", fmt.Sprint(4<<20))[0]
	b := open(t, m)
	defer b.Close()
	value := []byte(strings.Repeat("x", 100_000))
	var revisions []int64
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		var revision int64
		if revision, err = b.Put(t.Context(), fmt.Sprintf("/k/%03d", i), value, backend.Absent, 0); err == nil {
			revisions = append(revisions, revision)
		}
	}
	if !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Fatalf("after %d writes: got %v, want %v", len(revisions), err, rpctypes.ErrNoSpace)
	}
	newest := int64(0)
	for i, revision := range revisions {
		if newest, err = b.Delete(t.Context(), fmt.Sprintf("/k/%03d", i), revision); err != nil {
			t.Fatalf("delete without space: %v", err)
		}
	}
	if err := b.Compact(t.Context(), newest); err != nil {
		t.Fatalf("compact without space: %v", err)
	}
	client := raw(t, m)
	defer client.Close()
	if _, err := client.Defragment(t.Context(), m.client); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AlarmDisarm(t.Context(), &clientv3.AlarmMember{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(t.Context(), "/k/new", value, backend.Absent, 0); err != nil {
		t.Errorf("put when there is space again: %v", err)
	}
}

// Keys of about the same end share a lease; a lease that was revoked is not used again.
func TestLeasesAreShared(t *testing.T) {
	m := cluster(t, 1)[0]
	b := open(t, m)
	defer b.Close()
	client := raw(t, m)
	defer client.Close()
	put := func(first, n int) {
		t.Helper()
		for i := range n {
			if _, err := b.Put(t.Context(), fmt.Sprintf("/l/%04d", first+i), nil, backend.Absent, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
	}
	leases := func() []clientv3.LeaseStatus {
		t.Helper()
		r, err := client.Leases(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return r.Leases
	}
	put(0, 1100)
	if n := len(leases()); n != 2 {
		t.Errorf("1,100 keys have %d leases, want 2", n)
	}
	for _, l := range leases() {
		if _, err := client.Revoke(t.Context(), l.ID); err != nil {
			t.Fatal(err)
		}
	}
	put(0, 10)
	page, err := b.List(t.Context(), "/l/", "", 0, 0)
	if err != nil || len(page.Entries) != 10 || len(leases()) != 1 {
		t.Errorf("after the leases were revoked, %d keys were written with %d leases, %v; want 10 with 1", len(page.Entries), len(leases()), err)
	}
}

// All that a lease ends is deleted at one revision, and the changes say so.
func TestLeaseEndsTogether(t *testing.T) {
	m := cluster(t, 1)[0]
	b := open(t, m)
	defer b.Close()
	client := raw(t, m)
	defer client.Close()
	var last int64
	var err error
	const n = 300
	for i := range n {
		if last, err = b.Put(t.Context(), fmt.Sprintf("/l/%03d", i), nil, backend.Absent, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	r, err := client.Leases(t.Context())
	if err != nil || len(r.Leases) != 1 {
		t.Fatalf("got %v, %v, want one lease", r, err)
	}
	if _, err := client.Revoke(t.Context(), r.Leases[0].ID); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for c, err := range b.Watch(t.Context(), "/l/", last) {
		if err != nil {
			t.Fatal(err)
		}
		if c.Key == "" {
			continue
		}
		seen++
		if c.Value != nil || c.Revision != last+1 || c.More != (seen < n) {
			t.Errorf("change %d is %+v, want a delete at %d, with more until the last", seen, c, last+1)
		}
		if !c.More {
			break
		}
	}
	if seen != n {
		t.Errorf("the watch saw %d deletes, want %d", seen, n)
	}
}

// A kube-apiserver that finds the key written by another one leaves compacting to it, and learns what was compacted.
func TestCompactKey(t *testing.T) {
	m := cluster(t, 1)[0]
	b := open(t, m)
	defer b.Close()
	client := raw(t, m)
	defer client.Close()
	var last int64
	var err error
	for i := range 5 {
		if last, err = b.Put(t.Context(), fmt.Sprint("/k/", i), nil, backend.Absent, 0); err != nil {
			t.Fatal(err)
		}
	}
	for i, at := range []int64{last - 2, last, last - 1} {
		if err := b.Compact(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		r, err := client.Get(t.Context(), "compact_rev_key")
		want := []int64{last - 2, last, last}[i]
		if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != fmt.Sprint(want) || r.Kvs[0].Version != min(int64(i)+1, 2) {
			t.Errorf("after compacting %d the key is %v, %v; want %d", at, r, err, want)
		}
	}
}
