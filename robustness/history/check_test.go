package history_test

import (
	"strings"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/robustness/history"
)

// content is an object's content with one field.
func content(v string) history.Content { return history.NewContent(map[string]string{"v": v}) }

func object(revision int64, v string) history.Object {
	return history.Object{Revision: revision, UID: "u", Content: content(v)}
}

// op is an operation between two milliseconds.
func op(from, to int, verb history.Verb, outcome history.Outcome, change func(*history.Operation)) *history.Operation {
	o := &history.Operation{Verb: verb, Key: "a", Call: time.Duration(from) * time.Millisecond, Return: time.Duration(to) * time.Millisecond, Outcome: outcome}
	if verb == history.List {
		o.Key, o.Freshness, o.Objects = "", history.Newest, map[string]history.Object{}
	}
	if change != nil {
		change(o)
	}
	return o
}

func wrote(from, to int, verb history.Verb, revision int64, v string) *history.Operation {
	return op(from, to, verb, history.Done, func(o *history.Operation) { o.Sent, o.Object = content(v), object(revision, v) })
}

func read(from, to int, revision int64, v string) *history.Operation {
	return op(from, to, history.Get, history.Done, func(o *history.Operation) { o.Object = object(revision, v) })
}

func listed(from, to int, revision int64, objects map[string]history.Object) *history.Operation {
	return op(from, to, history.List, history.Done, func(o *history.Operation) { o.Revision, o.Objects = revision, objects })
}

func unanswered(from int, verb history.Verb, v string) *history.Operation {
	return op(from, 0, verb, history.Unknown, func(o *history.Operation) {
		if o.Return = history.Never; verb != history.Delete {
			o.Sent = content(v)
		}
	})
}

func event(at int, kind history.EventType, revision int64, v string) history.Event {
	e := history.Event{Type: kind, Key: "a", Object: object(revision, v), Time: time.Duration(at) * time.Millisecond}
	if kind == history.Bookmark {
		e.Key, e.Object = "", history.Object{Revision: revision}
	}
	return e
}

func watched(from int64, events ...history.Event) *history.Session {
	return &history.Session{Watcher: "w", From: from, Events: events}
}

// began is a watch that knows what was there when it began.
func began(from int64, objects map[string]history.Object, events ...history.Event) *history.Session {
	s := watched(from, events...)
	s.Objects = objects
	return s
}

type all = map[string]history.Object

// Each history is one that must pass, or is wrong in one way that is found.
func TestCheck(t *testing.T) {
	a1, a2 := wrote(0, 10, history.Create, 1, "1"), wrote(20, 30, history.Update, 2, "2")
	deleted := op(40, 50, history.Delete, history.Done, func(o *history.Operation) { o.Object.UID = "u" })
	conditional := func(expected int64, outcome history.Outcome) *history.Operation {
		return op(40, 50, history.Update, outcome, func(o *history.Operation) {
			if o.Expected, o.Sent = expected, content("3"); outcome == history.Done {
				o.Object = object(3, "3")
			}
		})
	}
	for _, c := range []struct {
		name     string
		ops      []*history.Operation
		sessions []*history.Session
		want     string // part of a violation; empty: there is none
	}{
		{name: "one after the other", ops: []*history.Operation{a1, a2, read(40, 50, 2, "2"), listed(40, 50, 2, all{"a": object(2, "2")})}},
		{name: "a read meanwhile sees either", ops: []*history.Operation{a1, a2, read(22, 50, 1, "1"), read(15, 25, 2, "2")}},
		{name: "old read", ops: []*history.Operation{a1, a2, read(40, 50, 1, "1")}, want: "no order of the operations on a"},
		{name: "reads go back", ops: []*history.Operation{a1, a2, read(21, 22, 2, "2"), read(23, 24, 1, "1")}, want: "no order"},
		{name: "acknowledged write is lost", ops: []*history.Operation{a1, a2, listed(40, 50, 2, all{})}, want: "no order"},
		{name: "lost update", ops: []*history.Operation{a1, a2, conditional(1, history.Done)}, want: "no order"},
		{name: "conflict as it should be", ops: []*history.Operation{a1, a2, conditional(1, history.Conflict)}},
		{name: "conflict without a reason", ops: []*history.Operation{a1, a2, conditional(2, history.Conflict)}, want: "no order"},
		{name: "created twice", ops: []*history.Operation{a1, wrote(20, 30, history.Create, 2, "2")}, want: "no order"},
		{name: "patch keeps the rest", ops: []*history.Operation{a1, op(20, 30, history.Patch, history.Done, func(o *history.Operation) {
			o.Sent = history.NewContent(map[string]string{"p": "x"})
			o.Object = history.Object{Revision: 2, UID: "u", Content: history.NewContent(map[string]string{"v": "1", "p": "x"})}
		})}},
		{name: "patch of an old state", ops: []*history.Operation{a1, a2, op(40, 50, history.Patch, history.Done, func(o *history.Operation) {
			o.Sent = history.NewContent(map[string]string{"p": "x"})
			o.Object = history.Object{Revision: 3, UID: "u", Content: history.NewContent(map[string]string{"v": "1", "p": "x"})}
		})}, want: "no order"},
		{name: "gone after a delete", ops: []*history.Operation{a1, deleted, op(60, 70, history.Get, history.NotFound, nil)}},
		{name: "delete of another one", ops: []*history.Operation{a1, op(40, 50, history.Delete, history.Done, func(o *history.Operation) { o.Object.UID = "other" })}, want: "no order"},
		{name: "unanswered write happened", ops: []*history.Operation{a1, unanswered(20, history.Update, "x"), read(40, 50, 2, "x"), read(60, 70, 2, "x")}},
		{name: "unanswered write did not happen", ops: []*history.Operation{a1, unanswered(20, history.Update, "x"), read(40, 50, 1, "1")}},
		{name: "unanswered write happens late", ops: []*history.Operation{a1, unanswered(20, history.Update, "x"), read(40, 50, 1, "1"), read(60, 70, 2, "x")}},
		{name: "unanswered write comes and goes", ops: []*history.Operation{a1, unanswered(20, history.Update, "x"), read(40, 50, 2, "x"), read(60, 70, 1, "1")}, want: "no order"},
		{name: "unanswered write happened before it was sent", ops: []*history.Operation{a1, unanswered(20, history.Update, "x"), read(12, 14, 2, "x")}, want: "no order"},
		{name: "unanswered write happens twice", ops: []*history.Operation{a1, unanswered(20, history.Update, "x"), read(40, 50, 2, "x"), read(60, 70, 3, "x")}, want: "no order"},
		{name: "unanswered delete happened", ops: []*history.Operation{a1, unanswered(20, history.Delete, ""), op(60, 70, history.Get, history.NotFound, nil)}},
		{name: "revisions against the clock", ops: []*history.Operation{wrote(0, 10, history.Create, 5, "1"), wrote(20, 30, history.Update, 4, "2")}, want: "told of 5"},
		{name: "list older than a revision that was seen", ops: []*history.Operation{a1, a2, listed(40, 50, 1, all{"a": object(1, "1")})}, want: "told of 2"},
		{name: "one revision, two changes", ops: []*history.Operation{a1, wrote(0, 10, history.Update, 1, "2")}, want: "revision 1 is two things"},
		{name: "exact list is of another revision", ops: []*history.Operation{a1, op(40, 50, history.List, history.Done, func(o *history.Operation) {
			o.Freshness, o.Asked, o.Revision, o.Objects = history.Exactly, 2, 1, all{"a": object(1, "1")}
		})}, want: "was to be of exactly revision 2"},
		{name: "list of an old revision", ops: []*history.Operation{a1, a2, op(40, 50, history.List, history.Done, func(o *history.Operation) {
			o.Freshness, o.Asked, o.Revision, o.Objects = history.Exactly, 1, 1, all{"a": object(1, "1")}
		})}},
		{name: "list of an old revision shows what came later", ops: []*history.Operation{a1, a2, op(40, 50, history.List, history.Done, func(o *history.Operation) {
			o.Freshness, o.Asked, o.Revision, o.Objects = history.Exactly, 1, 1, all{"a": object(2, "2")}
		})}, want: "shows a at 2"},
		{name: "list lacks what is there", ops: []*history.Operation{a1, op(40, 50, history.List, history.Done, func(o *history.Operation) {
			o.Freshness, o.Asked, o.Revision, o.Objects = history.NotBefore, 1, 1, all{}
		})}, sessions: []*history.Session{watched(0, event(5, history.Added, 1, "1"))}, want: "lacks a"},
		{name: "list shows what was deleted", ops: []*history.Operation{a1, deleted, op(60, 70, history.List, history.Done, func(o *history.Operation) {
			o.Freshness, o.Asked, o.Revision, o.Objects = history.NotBefore, 1, 2, all{"a": object(1, "1")}
		})}, sessions: []*history.Session{watched(1, event(50, history.Deleted, 2, "1"))}, want: "which was deleted at 2"},

		{name: "watch tells all", ops: []*history.Operation{a1, a2, deleted}, sessions: []*history.Session{
			began(0, all{}, event(10, history.Added, 1, "1"), event(30, history.Modified, 2, "2"), event(50, history.Deleted, 3, "2"), event(60, history.Bookmark, 3, "")),
			watched(1, event(30, history.Modified, 2, "2"), event(50, history.Bookmark, 2, ""))}},
		{name: "watch loses a change", ops: []*history.Operation{a1, a2}, sessions: []*history.Session{watched(0, event(10, history.Added, 1, "1"), event(60, history.Bookmark, 2, ""))}, want: "reached 2 without MODIFIED a"},
		{name: "watch loses a delete", ops: []*history.Operation{a1, deleted, wrote(60, 70, history.Create, 3, "3")},
			sessions: []*history.Session{began(0, all{}, event(10, history.Added, 1, "1"), event(70, history.Added, 3, "3"))}, want: "ADDED a at 3, but it is present is true"},
		{name: "watch repeats a change", ops: []*history.Operation{a1}, sessions: []*history.Session{watched(0, event(10, history.Added, 1, "1"), event(11, history.Added, 1, "1"))}, want: "comes after 1"},
		{name: "watch is out of order", ops: []*history.Operation{a1, a2}, sessions: []*history.Session{watched(0, event(30, history.Modified, 2, "2"), event(31, history.Added, 1, "1"))}, want: "ADDED a at 1 comes after 2"},
		{name: "bookmark comes early", ops: []*history.Operation{a1, a2}, sessions: []*history.Session{watched(1, event(30, history.Bookmark, 2, ""), event(31, history.Modified, 2, "2"))}, want: "comes after a bookmark at 2"},
		{name: "bookmark goes back", sessions: []*history.Session{watched(5, event(30, history.Bookmark, 4, ""))}, want: "a bookmark at 4 comes after 5"},
		{name: "watch resumes too late", ops: []*history.Operation{a1, a2}, sessions: []*history.Session{
			watched(0, event(10, history.Added, 1, "1"), event(30, history.Modified, 2, "2")), watched(1, event(60, history.Bookmark, 7, ""))}, want: "watch w from 1: reached 7 without MODIFIED a"},
		{name: "event before its commit", ops: []*history.Operation{a1, wrote(20, 30, history.Update, 2, "2")}, sessions: []*history.Session{watched(0, event(10, history.Added, 1, "1"), event(15, history.Modified, 2, "2"))}, want: "told of 2"},
		{name: "event of what never happened", ops: []*history.Operation{a1, wrote(30, 40, history.Update, 2, "2")}, sessions: []*history.Session{watched(1, event(25, history.Modified, 2, "x"))}, want: "revision 2 is two things"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := history.New()
			h.Operations, h.Sessions = c.ops, c.sessions
			got := strings.Join(h.Check(), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// A watch that selects sees objects come and go.
func TestSelection(t *testing.T) {
	red := history.Selection{Field: "v", Value: "red"}
	ops := []*history.Operation{
		wrote(0, 10, history.Create, 1, "blue"), wrote(20, 30, history.Update, 2, "red"), wrote(40, 50, history.Update, 3, "blue"),
	}
	for _, c := range []struct {
		name   string
		events []history.Event
		want   string
	}{
		{"as it should be", []history.Event{event(30, history.Added, 2, "red"), event(50, history.Deleted, 3, "red")}, ""},
		{"what matches is not new", []history.Event{event(30, history.Modified, 2, "red"), event(50, history.Deleted, 3, "red")}, `"MODIFIED" a at 2, want "ADDED"`},
		{"what ceases to match stays", []history.Event{event(30, history.Added, 2, "red"), event(50, history.Bookmark, 3, "")}, "without DELETED a at 3"},
		{"what does not match is told", []history.Event{event(10, history.Added, 1, "blue"), event(30, history.Modified, 2, "red")}, `"ADDED" a at 1, want ""`},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := history.New()
			h.Operations, h.Sessions = ops, []*history.Session{{Watcher: "w", Selection: red, Events: c.events}}
			got := strings.Join(h.Check(), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// An informer must end with what is there.
func TestInformer(t *testing.T) {
	for v, want := range map[string]string{"2": "", "1": "informer i at 2 shows a at 1, but it was at 2"} {
		h := history.New()
		h.Operations = []*history.Operation{wrote(0, 10, history.Create, 1, "1"), wrote(20, 30, history.Update, 2, "2")}
		revision := int64(2)
		if v == "1" {
			revision = 1
		}
		h.AddInformer(history.Informer{Name: "i", Revision: 2, Objects: all{"a": object(revision, v)}})
		if got := strings.Join(h.Check(), "\n"); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("with %s: got %q, want %q", v, got, want)
		}
	}
}
