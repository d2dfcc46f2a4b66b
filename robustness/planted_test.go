package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/databases"
	"github.com/skiff-k8s/skiff/apiserver/backend/engines"
	"github.com/skiff-k8s/skiff/robustness/server"
	"github.com/skiff-k8s/skiff/robustness/traffic"
)

// sick is a backend with a bug. Each bug is one that an engine can have.
type sick struct {
	backend.Backend
	mu     sync.Mutex
	random *rand.Rand // when it strikes
}

// strikes reports true once in n times.
func (s *sick) strikes(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.random.IntN(n) == 0
}

// object reports whether a key is of an object that the clients use: the bugs
// leave alone what the server writes for itself.
func object(key string) bool { return strings.HasPrefix(key, "/registry/configmaps/") }

// forgetsWrite acknowledges a write that it does not do.
type forgetsWrite struct{ *sick }

func (b forgetsWrite) Put(ctx context.Context, key string, value []byte, expected int64, life time.Duration) (int64, error) {
	if object(key) && expected != backend.Absent && b.strikes(10) {
		return b.Backend.Revision(ctx)
	}
	return b.Backend.Put(ctx, key, value, expected, life)
}

// forgetsCondition overwrites what the writer has not seen.
type forgetsCondition struct{ *sick }

func (b forgetsCondition) Put(ctx context.Context, key string, value []byte, expected int64, life time.Duration) (int64, error) {
	if object(key) && b.strikes(2) {
		time.Sleep(2 * time.Millisecond) // others write in between, also in an engine that takes no time
	}
	revision, err := b.Backend.Put(ctx, key, value, expected, life)
	if !errors.Is(err, backend.ErrConflict) || !object(key) || expected == backend.Absent {
		return revision, err
	}
	if entry, _, err := b.Backend.Get(ctx, key); err == nil {
		return b.Backend.Put(ctx, key, value, entry.Revision, life)
	}
	return revision, err
}

// refusesLate does a write and refuses it.
type refusesLate struct{ *sick }

func (b refusesLate) Put(ctx context.Context, key string, value []byte, expected int64, life time.Duration) (int64, error) {
	revision, err := b.Backend.Put(ctx, key, value, expected, life)
	if err == nil && object(key) && b.strikes(10) {
		return 0, backend.ErrConflict
	}
	return revision, err
}

// losesEvent leaves a change out of watches.
type losesEvent struct{ *sick }

func (b losesEvent) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return b.changed(ctx, prefix, after, func(c backend.Change, yield func(backend.Change, error) bool) bool {
		if object(c.Key) && b.strikes(10) {
			return yield(backend.Change{Revision: c.Revision}, nil)
		}
		return yield(c, nil)
	})
}

// losesDelete leaves deletions out of watches.
type losesDelete struct{ *sick }

func (b losesDelete) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return b.changed(ctx, prefix, after, func(c backend.Change, yield func(backend.Change, error) bool) bool {
		if object(c.Key) && c.Value == nil && b.strikes(5) {
			return yield(backend.Change{Revision: c.Revision}, nil)
		}
		return yield(c, nil)
	})
}

// repeatsEvent tells a change twice, the second time as if it were new.
type repeatsEvent struct{ *sick }

func (b repeatsEvent) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return b.changed(ctx, prefix, after, func(c backend.Change, yield func(backend.Change, error) bool) bool {
		if !yield(c, nil) {
			return false
		}
		return !object(c.Key) || !b.strikes(10) || yield(c, nil)
	})
}

// swapsEvents tells two changes in the wrong order.
type swapsEvents struct{ *sick }

func (b swapsEvents) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	var held *backend.Change
	return b.changed(ctx, prefix, after, func(c backend.Change, yield func(backend.Change, error) bool) bool {
		if held != nil {
			first := *held
			held = nil
			return yield(c, nil) && yield(first, nil)
		}
		if object(c.Key) && b.strikes(10) {
			held = &c
			return yield(backend.Change{Revision: c.Revision}, nil)
		}
		return yield(c, nil)
	})
}

// changed passes the changes of a watch through change.
func (s *sick) changed(ctx context.Context, prefix string, after int64,
	change func(backend.Change, func(backend.Change, error) bool) bool) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		for c, err := range s.Backend.Watch(ctx, prefix, after) {
			if err != nil {
				yield(c, err)
				return
			}
			if !change(c, yield) {
				return
			}
		}
	}
}

// tellsEarly lets watchers see a change before it is committed, and then fails
// to commit it, so that another one gets its revision.
type tellsEarly struct {
	*sick
	early chan backend.Change
}

func (b tellsEarly) Put(ctx context.Context, key string, value []byte, expected int64, life time.Duration) (int64, error) {
	entry, _, err := b.Backend.Get(ctx, key)
	if err == nil && entry.Revision == expected && object(key) && b.strikes(10) {
		select {
		case b.early <- backend.Change{Key: key, Value: value}:
			return 0, errors.New("the disk is away")
		default:
		}
	}
	return b.Backend.Put(ctx, key, value, expected, life)
}

func (b tellsEarly) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return b.changed(ctx, prefix, after, func(c backend.Change, yield func(backend.Change, error) bool) bool {
		select {
		case early := <-b.early:
			early.Revision = c.Revision
			return yield(early, nil) && yield(c, nil)
		default:
			return yield(c, nil)
		}
	})
}

// readsStale says that the newest revision is one of a while ago, and tells
// changes late.
type readsStale struct{ *sick }

func (b readsStale) Revision(ctx context.Context) (int64, error) {
	revision, err := b.Backend.Revision(ctx)
	return max(0, revision-20), err
}

func (b readsStale) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return b.changed(ctx, prefix, after, func(c backend.Change, yield func(backend.Change, error) bool) bool {
		time.Sleep(time.Millisecond)
		return yield(c, nil)
	})
}

// takesRevisionEarly gives a write its revision before it is committed: a reader
// that asks for what comes after the greatest revision it has seen misses it,
// when another one with a greater revision was committed first.
type takesRevisionEarly struct{ *sick }

func (b takesRevisionEarly) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		for c, err := range b.Backend.Watch(ctx, prefix, after) {
			if err != nil {
				yield(c, err)
				return
			}
			if object(c.Key) && b.strikes(10) && b.overtaken(ctx, c.Revision) {
				continue // it was not committed yet when the next one was seen
			}
			if !yield(c, nil) {
				return
			}
		}
	}
}

// overtaken reports whether another write is committed within a moment.
func (b takesRevisionEarly) overtaken(ctx context.Context, revision int64) bool {
	for range 50 {
		if newest, err := b.Backend.Revision(ctx); err != nil || newest > revision {
			return err == nil
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// losesAtReconnect loses its connection, and goes on one change too late.
type losesAtReconnect struct{ *sick }

func (b losesAtReconnect) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[backend.Change, error] {
	return func(yield func(backend.Change, error) bool) {
		for lost := true; lost; {
			lost = false
			for c, err := range b.Backend.Watch(ctx, prefix, after) {
				if !yield(c, err) || err != nil {
					return
				}
				if lost = object(c.Key) && !c.More && b.strikes(10); lost {
					after = c.Revision + 1
					break
				}
			}
		}
	}
}

// losesCompacted forgets the newest of the changes that a compaction goes up to,
// though it is still current.
type losesCompacted struct {
	*sick
	lost *sync.Map // revisions
}

func (b losesCompacted) Compact(ctx context.Context, revision int64) error {
	page, err := b.Backend.List(ctx, "/registry/configmaps/", "", 0, revision)
	if err == nil && len(page.Entries) > 0 {
		last := slices.MaxFunc(page.Entries, func(x, y backend.Entry) int { return cmp.Compare(x.Revision, y.Revision) })
		b.lost.Store(last.Revision, true)
	}
	return b.Backend.Compact(ctx, revision)
}

func (b losesCompacted) List(ctx context.Context, prefix, after string, limit int, revision int64) (backend.Page, error) {
	page, err := b.Backend.List(ctx, prefix, after, limit, revision)
	page.Entries = slices.DeleteFunc(page.Entries, func(e backend.Entry) bool {
		_, lost := b.lost.Load(e.Revision)
		return lost
	})
	return page, err
}

// bug is one that an engine can have.
type bug struct {
	name    string
	plant   func(*sick) backend.Backend
	want    string // part of a violation
	between bool   // it is one of engines that servers share
}

var bugs = []bug{
	{name: "a write is acknowledged and not done", plant: func(s *sick) backend.Backend { return forgetsWrite{s} }, want: "no order of the operations"},
	{name: "a condition is not looked at", plant: func(s *sick) backend.Backend { return forgetsCondition{s} }, want: "no order of the operations"},
	{name: "a write is refused and done", plant: func(s *sick) backend.Backend { return refusesLate{s} }, want: "no order of the operations"},
	{name: "a change is lost for watches", plant: func(s *sick) backend.Backend { return losesEvent{s} }, want: "without MODIFIED"},
	{name: "a deletion is lost for watches", plant: func(s *sick) backend.Backend { return losesDelete{s} }, want: "no order of the operations"},
	{name: "a change is told twice", plant: func(s *sick) backend.Backend { return repeatsEvent{s} }, want: "comes after"},
	{name: "changes are told in the wrong order", plant: func(s *sick) backend.Backend { return swapsEvents{s} }, want: "comes after"},
	{name: "a change is told before its commit", plant: func(s *sick) backend.Backend { return tellsEarly{s, make(chan backend.Change, 1)} }, want: "is two things", between: true},
	{name: "a revision is taken before the commit", plant: func(s *sick) backend.Backend { return takesRevisionEarly{s} }, want: "without", between: true},
	{name: "a change is lost at a reconnect", plant: func(s *sick) backend.Backend { return losesAtReconnect{s} }, want: "without", between: true},
	{name: "reads are stale", plant: func(s *sick) backend.Backend { return readsStale{s} }, want: "no order of the operations"},
	{name: "a compaction loses the last change", plant: func(s *sick) backend.Backend { return losesCompacted{s, new(sync.Map)} }, want: "no order of the operations"},
}

// Every bug is found in every engine, by one of a few histories: where the bug
// strikes is decided by the seed, and whether somebody was there to see it by how
// the clients met.
func TestPlantedBugs(t *testing.T) {
	for _, bug := range bugs {
		for name, open := range local {
			t.Run(bug.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				bug.find(t, func() []backend.Backend { return []backend.Backend{open(t)} })
			})
		}
	}
}

// What goes wrong between servers is found where two have a database open.
func TestPlantedBugsOfTwoServers(t *testing.T) {
	for _, bug := range bugs {
		if !bug.between {
			continue
		}
		for name, fresh := range shared {
			t.Run(bug.name+"/"+name, func(t *testing.T) {
				bug.find(t, func() []backend.Backend { return openTwice(t, fresh(t)) })
			})
		}
	}
}

// shared are the databases that several servers can use, each a fresh one.
var shared = map[string]func(t testing.TB) (url string){
	"postgres": databases.Postgres, "mysql": databases.MariaDB, "etcd": databases.Etcd,
}

func openTwice(t *testing.T, url string) (all []backend.Backend) {
	t.Helper()
	for range 2 {
		b, err := engines.Open(url)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// find makes histories until the bug is found.
func (b bug) find(t *testing.T, open func() []backend.Backend) {
	t.Helper()
	const seeds = 10
	var found string
	for seed := range uint64(seeds) {
		found = strings.Join(plant(t, open(), b.plant, seed), "\n")
		if strings.Contains(found, b.want) {
			t.Logf("found with seed %d", seed)
			return
		}
	}
	t.Errorf("found %.3000q at last, want %q", found, b.want)
}

// plant makes a history of servers on sick backends and returns what is found.
func plant(t *testing.T, all []backend.Backend, sicken func(*sick) backend.Backend, seed uint64) []string {
	t.Helper()
	var configs []*rest.Config
	var faults []traffic.Fault
	for i, b := range all {
		defer b.Close()
		ill := sicken(&sick{Backend: b, random: rand.New(rand.NewPCG(seed, uint64(i)))})
		s := server.NewInProcess(shortHistory, slog.New(slog.DiscardHandler))
		if err := s.Start(ill); err != nil {
			t.Fatal(err)
		}
		defer s.Stop()
		configs, faults = append(configs, s.Config()), append(faults, compactAndRestart(s, ill))
	}
	p := plan(seed, configs...)
	p.Operations = 25 // sick servers leave many without an answer
	p.Patience, p.Settle, p.Forgets = time.Second, 2*time.Second, true
	p.Faults = slices.Repeat(faults, 4/len(faults))
	h, err := traffic.Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return h.Check()
}

// Without a bug the same finds nothing.
func TestWithoutBugs(t *testing.T) {
	for name, open := range local {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("%s/seed=%d", name, seed), func(t *testing.T) {
				b := open(t)
				defer b.Close()
				s := server.NewInProcess(shortHistory, slog.New(slog.NewTextHandler(t.Output(), nil)))
				if err := s.Start(b); err != nil {
					t.Fatal(err)
				}
				defer s.Stop()
				p := plan(seed, s.Config())
				p.Faults, p.Forgets = slices.Repeat([]traffic.Fault{compactAndRestart(s, b)}, 4), true
				expectNothing(t, p)
			})
		}
	}
}
