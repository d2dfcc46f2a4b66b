package history

import (
	"fmt"
	"maps"
	"slices"
)

// watches checks every watch against all that is known.
func (h *History) watches(t *truth) (violations []string) {
	for _, s := range h.Sessions {
		for _, v := range slices.Concat(s.ordered(), s.replay(), s.missing(t)) {
			violations = append(violations, fmt.Sprintf("watch %s from %d: %s", s.Watcher, s.From, v))
		}
	}
	return violations
}

// ordered: events come in the order of revisions, each once, and a bookmark
// says that all up to its revision have come.
func (s *Session) ordered() (violations []string) {
	last, bookmark := s.From, int64(0)
	for _, e := range s.Events {
		r := e.Object.Revision
		switch {
		case e.Type == Bookmark && r < last:
			violations = append(violations, fmt.Sprintf("a bookmark at %d comes after %d", r, last))
		case e.Type == Bookmark:
			bookmark = r
		case r <= bookmark:
			violations = append(violations, fmt.Sprintf("%s %s at %d comes after a bookmark at %d", e.Type, e.Key, r, bookmark))
		case r <= last:
			violations = append(violations, fmt.Sprintf("%s %s at %d comes after %d", e.Type, e.Key, r, last))
		}
		last = max(last, r)
	}
	return violations
}

// replay: the type of each event fits the state that the events before it made.
func (s *Session) replay() (violations []string) {
	present := make(map[string]bool) // as far as is known
	uid := make(map[string]string)
	if s.Objects != nil {
		for key, object := range s.Objects {
			present[key], uid[key] = true, object.UID
		}
	}
	for _, e := range s.Events {
		if e.Type == Bookmark {
			continue
		}
		is, known := present[e.Key]
		if !known {
			is, known = false, s.Objects != nil
		}
		switch want := e.Type != Added; {
		case known && want != is:
			violations = append(violations, fmt.Sprintf("%s %s at %d, but it is present is %v", e.Type, e.Key, e.Object.Revision, is))
		case known && is && uid[e.Key] != e.Object.UID:
			violations = append(violations, fmt.Sprintf("%s %s at %d is of %s, but %s was there", e.Type, e.Key, e.Object.Revision, e.Object.UID, uid[e.Key]))
		}
		present[e.Key], uid[e.Key] = e.Type != Deleted, e.Object.UID
	}
	return violations
}

// missing: every change that is known, of what the watch selects, was told as
// what it is to who sees only that.
func (s *Session) missing(t *truth) (violations []string) {
	told := make(map[int64]Event)
	for _, e := range s.Events {
		if e.Type != Bookmark {
			told[e.Object.Revision] = e
		}
	}
	through := s.Through()
	for _, key := range slices.Sorted(maps.Keys(t.byKey)) {
		for i, c := range t.byKey[key] {
			if c.revision <= s.From || c.revision > through {
				continue
			}
			var before change
			if i > 0 {
				before = t.byKey[key][i-1]
			}
			want := s.Selection.expects(before, c)
			got, ok := told[c.revision]
			switch {
			case want != "" && !ok:
				violations = append(violations, fmt.Sprintf("reached %d without %s %s at %d, which was told of by %s", through, want, key, c.revision, c.by))
			case ok && got.Type != want:
				violations = append(violations, fmt.Sprintf("%q %s at %d, want %q", got.Type, key, c.revision, want))
			}
		}
	}
	return violations
}

// expects is the event by which a change is told to who sees only a selection;
// empty if it is not.
func (s Selection) expects(before, c change) EventType {
	// An object of another UID has come in the place of one whose end nobody saw.
	was := before.key != "" && !before.deleted && before.object.UID == c.object.UID && s.selects(c.key, before.object.Content)
	is := !c.deleted && s.selects(c.key, c.object.Content)
	switch {
	case was && is:
		return Modified
	case is:
		return Added
	case was:
		return Deleted
	}
	return ""
}
