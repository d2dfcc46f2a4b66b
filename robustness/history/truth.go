package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// change is what is known of one revision.
type change struct {
	revision int64
	key      string
	deleted  bool
	object   Object // for a delete: what was there before, as far as it was told
	by       string // who told
}

// truth is all that anybody was told of changes, by key and in order.
type truth struct {
	byKey      map[string][]change
	byRevision map[int64]change
	covered    []span // of revisions of which some watch told every change
	violations []string
}

// span is the revisions after one up to and including another.
type span struct{ after, through int64 }

// newTruth joins what was told, and complains where it does not agree: a
// revision is one change of one object.
func (h *History) newTruth() *truth {
	t := &truth{byKey: make(map[string][]change), byRevision: make(map[int64]change)}
	for _, o := range h.Operations {
		switch {
		case o.Outcome == Done && o.Verb == List:
			t.shown(o.Objects, o.String())
		case o.Outcome == Done && o.Verb != Delete:
			t.add(change{revision: o.Object.Revision, key: o.Key, object: o.Object, by: o.String()})
		}
	}
	for _, s := range h.Sessions {
		by := "watch " + s.Watcher
		t.shown(s.Objects, by)
		for _, e := range s.Events {
			switch {
			case e.Type == Added || e.Type == Modified:
				t.add(change{revision: e.Object.Revision, key: e.Key, object: e.Object, by: by})
			case e.Type == Deleted && s.Selection.Field == "": // else it may only have ceased to match
				t.add(change{revision: e.Object.Revision, key: e.Key, object: e.Object, deleted: true, by: by})
			}
		}
		if s.Selection == (Selection{}) {
			t.covered = append(t.covered, span{s.From, s.Through()})
		}
	}
	t.covered = joined(t.covered)
	for _, c := range t.byRevision {
		t.byKey[c.key] = append(t.byKey[c.key], c)
	}
	for _, changes := range t.byKey {
		slices.SortFunc(changes, func(a, b change) int { return cmp.Compare(a.revision, b.revision) })
	}
	return t
}

func (t *truth) shown(objects map[string]Object, by string) {
	for key, object := range objects {
		t.add(change{revision: object.Revision, key: key, object: object, by: by})
	}
}

func (t *truth) add(c change) {
	known, ok := t.byRevision[c.revision]
	if !ok {
		t.byRevision[c.revision] = c
		return
	}
	if known.key != c.key || known.deleted != c.deleted || known.object != c.object {
		t.violations = append(t.violations, fmt.Sprintf("revision %d is two things: %s by %s, and %s by %s", c.revision, known, known.by, c, c.by))
	}
}

// joined are spans in order, those that touch made one.
func joined(spans []span) (out []span) {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.after, b.after) })
	for _, s := range spans {
		if n := len(out); n > 0 && s.after <= out[n-1].through {
			out[n-1].through = max(out[n-1].through, s.through)
			continue
		}
		out = append(out, s)
	}
	return out
}

// covers reports whether watches told of every change in a span.
func (t *truth) covers(after, through int64) bool {
	return slices.ContainsFunc(t.covered, func(s span) bool { return s.after <= after && through <= s.through })
}

func (c change) String() string {
	if c.deleted {
		return fmt.Sprintf("the end of %s (%s)", c.key, c.object.UID)
	}
	return fmt.Sprintf("%s = %s (%s)", c.key, c.object.Content.short(), c.object.UID)
}

// at is the last known change of a key up to a revision.
func (t *truth) at(key string, revision int64) (change, bool) {
	changes := t.byKey[key]
	i, found := slices.BinarySearchFunc(changes, revision, func(c change, r int64) int { return cmp.Compare(c.revision, r) })
	if found {
		return changes[i], true
	}
	if i == 0 {
		return change{}, false
	}
	return changes[i-1], true
}

// lists checks that each list shows the state at its revision, whatever happened
// while it was read, and that it is of a revision it was to be of.
func (h *History) lists(t *truth) (violations []string) {
	for _, o := range h.Operations {
		if o.Verb != List || o.Outcome != Done {
			continue
		}
		if o.Freshness == Exactly && o.Revision != o.Asked || o.Freshness == NotBefore && o.Revision < o.Asked {
			violations = append(violations, fmt.Sprintf("a list of client %d was to be of %s revision %d and is of %d", o.Client, o.Freshness, o.Asked, o.Revision))
		}
		violations = append(violations, t.contradict(o.Objects, o.Revision, fmt.Sprintf("the list of client %d (%s, begun at %v)", o.Client, o.Freshness, o.Call))...)
	}
	for _, s := range h.Sessions {
		if s.Objects != nil && s.Selection == (Selection{}) {
			violations = append(violations, t.contradict(s.Objects, s.From, "the beginning of watch "+s.Watcher)...)
		}
	}
	for _, i := range h.Informers {
		violations = append(violations, t.contradict(i.Objects, i.Revision, "informer "+i.Name)...)
	}
	return violations
}

// contradict compares what somebody was shown as the state at a revision with
// what is known of it.
func (t *truth) contradict(shown map[string]Object, revision int64, by string) (violations []string) {
	for _, key := range slices.Sorted(maps.Keys(t.byKey)) {
		known, ok := t.at(key, revision)
		object, is := shown[key]
		switch {
		case is && object.Revision > revision:
			violations = append(violations, fmt.Sprintf("%s at %d shows %s at %d", by, revision, key, object.Revision))
		case is && ok && known.deleted:
			violations = append(violations, fmt.Sprintf("%s at %d shows %s, which was deleted at %d", by, revision, key, known.revision))
		case is && ok && known.revision != object.Revision:
			violations = append(violations, fmt.Sprintf("%s at %d shows %s at %d, but it was at %d", by, revision, key, object.Revision, known.revision))
		case !is && ok && !known.deleted && t.covers(known.revision, revision):
			violations = append(violations, fmt.Sprintf("%s at %d lacks %s, which was written at %d and whose end nobody saw", by, revision, key, known.revision))
		}
	}
	return violations
}
