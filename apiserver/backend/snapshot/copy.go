// Package snapshot moves what a backend holds: Copy into another backend, Write
// at one revision into a file while others go on writing, Restore from there into
// a backend.
package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// Progress is told how much is done of how much, in entries.
type Progress func(done, total int)

// ErrNothing: there is nothing to move.
var ErrNothing = errors.New("nothing is stored there")

// keptHistory is how many changes Copy takes along at most.
const keptHistory = 20_000

// Copied is what Copy has done.
type Copied struct {
	Entries int
	// Watches that have seen everything up to Oldest, or more, can be resumed.
	Oldest, Newest int64
}

// Copy fills to with the state of from at its newest revision, and with the
// history before that, so that clients of from can go on with to. What is written
// to from meanwhile is not copied. If Copy fails, to is empty or says that it is
// partial. backend.ErrNotEmpty, ErrNothing.
func Copy(ctx context.Context, from, to backend.Backend, tell Progress) (Copied, error) {
	if err := empty(ctx, to); err != nil {
		return Copied{}, err
	}
	s, err := read(ctx, from)
	if err != nil {
		return Copied{}, fmt.Errorf("read: %w", err)
	}
	if err := load(ctx, to, s.writes, s.compacted, s.newest, tell); err != nil {
		return Copied{}, fmt.Errorf("write: %w", err)
	}
	return Copied{Entries: s.entries, Oldest: s.compacted, Newest: s.newest}, nil
}

// empty finds out early what Load would find out in the end: whether something is
// there. It does not see what was there.
func empty(ctx context.Context, b backend.Backend) error {
	page, err := b.List(ctx, "", "", 1, 0)
	if err == nil && len(page.Entries) > 0 {
		return backend.ErrNotEmpty
	}
	return err
}

func load(ctx context.Context, to backend.Backend, writes []backend.Entry, compacted, newest int64, tell Progress) error {
	loader, ok := to.(backend.Loader)
	if !ok {
		return fmt.Errorf("%T cannot be filled", to)
	}
	return loader.Load(ctx, told(writes, tell), compacted, newest)
}

// told tells how far the one who takes the writes has come.
func told(writes []backend.Entry, tell Progress) iter.Seq[backend.Entry] {
	return func(yield func(backend.Entry) bool) {
		for i, w := range writes {
			if !yield(w) {
				return
			}
			tell(i+1, len(writes))
		}
	}
}

// state is what a backend holds, as backend.Loader takes it.
type state struct {
	writes            []backend.Entry
	entries           int // that have a value at newest
	compacted, newest int64
}

// read reads a state with as much history as there is. If history goes away
// meanwhile, the state has none.
func read(ctx context.Context, b backend.Backend) (state, error) {
	newest, err := b.Revision(ctx)
	if err != nil {
		return state{}, err
	}
	current, err := list(ctx, b, newest)
	if err != nil {
		return state{}, err
	}
	if len(current) == 0 {
		return state{}, ErrNothing
	}
	s := state{entries: len(current), newest: newest}
	s.writes, s.compacted, err = history(ctx, b, current, newest)
	if errors.Is(err, backend.ErrCompacted) {
		slices.SortFunc(current, byRevision)
		s.writes, s.compacted, err = current, newest, nil
	}
	return s, err
}

// list reads all entries at a revision, by key.
func list(ctx context.Context, b backend.Backend, revision int64) (entries []backend.Entry, err error) {
	for page, err := range Pages(ctx, b, revision) {
		if err != nil {
			return nil, err
		}
		for _, e := range page.Entries {
			if e.Value == nil {
				e.Value = []byte{} // of a write, nil would mean a deletion
			}
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// pageSize is how many entries are read at a time: few enough for large ones.
const pageSize = 200

// Pages reads all entries at a revision, by key; 0 means that which is the newest
// with the first page. One without entries is the only one.
func Pages(ctx context.Context, b backend.Backend, revision int64) iter.Seq2[backend.Page, error] {
	return func(yield func(backend.Page, error) bool) {
		after := ""
		for {
			page, err := b.List(ctx, "", after, pageSize, revision)
			if err = errors.Join(err, ctx.Err()); err != nil {
				yield(page, err)
				return
			}
			if !yield(page, nil) || page.More == 0 || len(page.Entries) == 0 {
				return
			}
			after, revision = page.Entries[len(page.Entries)-1].Key, page.Revision
		}
	}
}

// history is current, at newest, told as the writes that made it, from a
// revision on.
func history(ctx context.Context, b backend.Backend, current []backend.Entry, newest int64) ([]backend.Entry, int64, error) {
	start, err := oldest(ctx, b, newest)
	if err != nil {
		return nil, 0, err
	}
	changes, err := changesUntil(ctx, b, start, newest)
	if err != nil {
		return nil, 0, err
	}
	start, changes = dense(changes, newest)
	var base []backend.Entry
	if start > 0 {
		if base, err = list(ctx, b, start); err != nil {
			return nil, 0, err
		}
	}
	slices.SortFunc(base, byRevision)
	writes := append(base, changes...)
	if err := agree(writes, current); err != nil {
		return nil, 0, err
	}
	return writes, start, nil
}

// oldest finds the oldest revision that can be read, but at most keptHistory
// back; 0 if that is before the first write.
func oldest(ctx context.Context, b backend.Backend, newest int64) (int64, error) {
	gone, there := max(newest-keptHistory, 1)-1, newest
	for there-gone > 1 {
		middle := gone + (there-gone)/2
		switch _, err := b.List(ctx, "", "", 1, middle); {
		case errors.Is(err, backend.ErrCompacted):
			gone = middle
		case err != nil:
			return 0, err
		default:
			there = middle
		}
	}
	if there > 1 {
		return there, nil
	}
	// Nothing can be listed at 0, which means the newest, but watches may begin there.
	for _, err := range b.Watch(ctx, "", 0) {
		if err == nil {
			return 0, nil
		}
		if !errors.Is(err, backend.ErrCompacted) {
			return 0, err
		}
		break
	}
	return there, nil
}

func changesUntil(ctx context.Context, b backend.Backend, start, newest int64) (changes []backend.Entry, err error) {
	if start == newest {
		return nil, nil
	}
	for c, err := range b.Watch(ctx, "", start) {
		switch {
		case err != nil:
			return nil, err
		case c.Revision > newest:
			return changes, nil
		case c.Key != "":
			changes = append(changes, backend.Entry{Key: c.Key, Value: c.Value, Revision: c.Revision})
		}
		if c.Revision == newest && !c.More {
			return changes, nil
		}
	}
	return nil, ctx.Err()
}

// dense leaves out the changes before the last revision up to newest that no
// change was at, or several, for history has one for every revision. start is the
// revision they begin after.
func dense(changes []backend.Entry, newest int64) (start int64, _ []backend.Entry) {
	start = newest
	i := len(changes)
	for ; i > 0 && changes[i-1].Revision == start && (i == 1 || changes[i-2].Revision != start); i-- {
		start--
	}
	return start, changes[i:]
}

// agree makes sure that writes lead to current, and gives them the ends of
// lifetimes that are known from there.
func agree(writes, current []backend.Entry) error {
	last := make(map[string]int, len(current)) // the place of the last write of a key
	for i, w := range writes {
		last[w.Key] = i
		if w.Value == nil {
			delete(last, w.Key)
		}
	}
	for _, e := range current {
		i, ok := last[e.Key]
		if !ok || writes[i].Revision != e.Revision {
			return fmt.Errorf("%s is listed at revision %d, but that was not its last write", e.Key, e.Revision)
		}
		writes[i].End = e.End
	}
	if len(last) != len(current) {
		return fmt.Errorf("%d keys are listed, but %d were written and not deleted", len(current), len(last))
	}
	return nil
}

func byRevision(a, b backend.Entry) int { return cmp.Compare(a.Revision, b.Revision) }
