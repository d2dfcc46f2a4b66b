package etcd

import (
	"context"
	"maps"
	"math"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Bounds of what shares a lease. etcd deletes all its keys at one revision.
const (
	keysOfLease  = 1000
	shareWindow  = time.Minute // by which a key may live longer, but at most a twentieth of its lifetime
	shareDivisor = 20
)

// leases are what makes keys end. A lease is for all keys of the same lifetime that are written within a window.
type leases struct {
	grant func(ctx context.Context, seconds int64) (*clientv3.LeaseGrantResponse, error)

	busy   chan struct{}           // holds one while somebody uses latest; who waits for it can leave
	latest map[time.Duration]lease // by lifetime
}

type lease struct {
	id   clientv3.LeaseID
	ends time.Time
	keys int // that may have been given it
}

func newLeases(grant func(context.Context, int64) (*clientv3.LeaseGrantResponse, error)) *leases {
	return &leases{grant: grant, busy: make(chan struct{}, 1), latest: make(map[time.Duration]lease)}
}

// get returns a lease that ends when lifetime has passed from now, or a little later.
func (l *leases) get(ctx context.Context, lifetime time.Duration, now time.Time) (clientv3.LeaseID, error) {
	select {
	case l.busy <- struct{}{}:
		defer func() { <-l.busy }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if known, ok := l.latest[lifetime]; ok && known.keys < keysOfLease && !known.ends.Before(now.Add(lifetime)) {
		known.keys++
		l.latest[lifetime] = known
		return known.id, nil
	}
	seconds := int64(math.Ceil((lifetime + min(shareWindow, lifetime/shareDivisor)).Seconds()))
	granted, err := l.grant(ctx, seconds)
	if err != nil {
		return 0, err
	}
	l.drop(now)
	l.latest[lifetime] = lease{id: granted.ID, ends: now.Add(time.Duration(seconds) * time.Second), keys: 1}
	return granted.ID, nil
}

// drop forgets the leases that have ended.
func (l *leases) drop(now time.Time) {
	for lifetime, known := range l.latest {
		if known.ends.Before(now) {
			delete(l.latest, lifetime)
		}
	}
}

// forget makes sure that a lease is not used again.
func (l *leases) forget(id clientv3.LeaseID) {
	l.busy <- struct{}{}
	defer func() { <-l.busy }()
	for lifetime, known := range l.latest {
		if known.id == id {
			delete(l.latest, lifetime)
		}
	}
}

// ends are when leases end, as far as anybody asked. Nobody prolongs those of keys.
type ends struct {
	mu   sync.Mutex
	at   map[clientv3.LeaseID]time.Time
	most int // to look for those that have ended
}

// endOf is when a lease ends; the zero time for none. One that has ended does so now.
func (b *Backend) endOf(ctx context.Context, id clientv3.LeaseID) (time.Time, error) {
	if id == clientv3.NoLease {
		return time.Time{}, nil
	}
	if end, ok := b.ends.get(id); ok {
		return end, nil
	}
	var end time.Time
	err := b.call(ctx, repeatable, func(ctx context.Context) error {
		r, err := b.client.TimeToLive(ctx, id)
		if err == nil {
			end = time.Now().Add(time.Duration(max(r.TTL, 0)) * time.Second)
		}
		return err
	})
	if err == nil {
		b.ends.put(id, end)
	}
	return end, err
}

func (e *ends) get(id clientv3.LeaseID) (time.Time, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	end, ok := e.at[id]
	return end, ok
}

func (e *ends) put(id clientv3.LeaseID, end time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.at) >= e.most {
		maps.DeleteFunc(e.at, func(_ clientv3.LeaseID, end time.Time) bool { return time.Since(end) > time.Minute })
		e.most = 2*len(e.at) + 1000
	}
	if e.at == nil {
		e.at = make(map[clientv3.LeaseID]time.Time)
	}
	e.at[id] = end
}
