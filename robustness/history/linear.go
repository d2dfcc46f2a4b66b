package history

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// patience is how long the search for an order may take for all keys. A history
// for which it does not end is reported, not passed.
const patience = 20 * time.Second

// state is what one object can be: absent, or at a revision with a content.
type state struct {
	present bool
	// revision is that of the last write if it is known, else a revision that it
	// is greater than: nobody was told that of a write without an answer.
	revision int64
	known    bool
	uid      string // empty: unknown
	content  Content
}

// linear looks for an order of the operations on each object that explains all
// answers and contradicts no clock: each operation takes effect at some moment
// between its call and its return. A write that was not answered may take
// effect at any time after its call, or never.
func linear(operations []*Operation) (violations []string) {
	keys := keysOf(operations)
	for _, key := range keys {
		ops := onKey(operations, key)
		switch porcupine.CheckOperationsTimeout(model, ops, patience/time.Duration(len(keys))) {
		case porcupine.Illegal:
			violations = append(violations, fmt.Sprintf("no order of the operations on %s explains what they answered:\n%s", key, describe(ops)))
		case porcupine.Unknown:
			violations = append(violations, fmt.Sprintf("the search for an order of the %d operations on %s did not end", len(ops), key))
		}
	}
	return violations
}

func keysOf(operations []*Operation) []string {
	found := make(map[string]bool)
	for _, o := range operations {
		if o.Key != "" {
			found[o.Key] = true
		}
		for key := range o.Objects {
			found[key] = true
		}
	}
	keys := make([]string, 0, len(found))
	for key := range found {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// onKey is what concerns one object. A list of the newest state reads it too.
func onKey(operations []*Operation, key string) (ops []porcupine.Operation) {
	for _, o := range operations {
		switch {
		case o.Verb == List && o.Outcome == Done && o.Freshness == Newest:
			read := &Operation{Client: o.Client, Verb: Get, Key: key, Call: o.Call, Return: o.Return, Outcome: NotFound}
			if object, ok := o.Objects[key]; ok {
				read.Outcome, read.Object = Done, object
			}
			o = read
		case o.Key != key || o.Verb == Get && o.Outcome == Unknown:
			continue
		}
		ops = append(ops, porcupine.Operation{ClientId: o.Client, Input: o, Call: int64(o.Call), Return: int64(o.Return)})
	}
	return ops
}

var model = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{state{}} },
	Step: func(s, input, _ any) (next []any) {
		for _, n := range s.(state).after(input.(*Operation)) {
			next = append(next, n)
		}
		return next
	},
	Equal: func(a, b any) bool { return a == b },
}).ToModel()

// after is what s may become by an operation: nothing if it cannot have been
// answered as it was.
func (s state) after(o *Operation) []state {
	switch {
	case o.Outcome == NotFound:
		return s.only(!s.present && o.Verb != Create)
	case o.Outcome == Exists:
		return s.only(s.present && o.Verb == Create)
	case o.Outcome == Conflict:
		return s.only(s.present && o.Expected != 0 && !(s.known && s.revision == o.Expected))
	case o.Verb == Get:
		return s.read(o.Object)
	case o.Outcome == Unknown:
		next := []state{s}
		if s.takes(o) {
			next = append(next, s.written(o))
		}
		return next
	}
	if !s.takes(o) {
		return nil
	}
	next := s.written(o)
	if o.Verb == Delete {
		return next.only(s.uid == "" || o.Object.UID == "" || s.uid == o.Object.UID)
	}
	return next.read(o.Object)
}

func (s state) only(possible bool) []state {
	if possible {
		return []state{s}
	}
	return nil
}

// takes reports whether a write can succeed in s.
func (s state) takes(o *Operation) bool {
	if o.Verb == Create {
		return !s.present
	}
	if !s.present || o.Expected == 0 {
		return s.present
	}
	if s.known {
		return s.revision == o.Expected
	}
	return o.Expected > s.revision
}

// written is s after a write, of which the revision is not known yet.
func (s state) written(o *Operation) state {
	floor := max(s.revision, o.Expected)
	switch o.Verb {
	case Create:
		return state{present: true, revision: floor, content: o.Sent}
	case Update:
		return state{present: true, revision: floor, uid: s.uid, content: o.Sent}
	case Patch:
		return state{present: true, revision: floor, uid: s.uid, content: s.content.merge(o.Sent)}
	}
	return state{revision: floor}
}

// read is s, of which an object was shown.
func (s state) read(o Object) []state {
	if !s.present || s.content != o.Content || s.uid != "" && s.uid != o.UID {
		return nil
	}
	if s.known && s.revision != o.Revision || !s.known && s.revision >= o.Revision {
		return nil
	}
	return []state{{present: true, revision: o.Revision, known: true, uid: o.UID, content: o.Content}}
}

// describe shows operations in the order of their calls.
func describe(ops []porcupine.Operation) string {
	slices.SortStableFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var text strings.Builder
	for _, o := range ops {
		fmt.Fprintln(&text, "  ", o.Input.(*Operation))
	}
	return text.String()
}

// String is an operation on a line.
func (o *Operation) String() string {
	var text strings.Builder
	ended := "never"
	if o.Return != Never {
		ended = fmt.Sprintf("%.6f", o.Return.Seconds())
	}
	fmt.Fprintf(&text, "[%.6f, %s] client %d %s %s", o.Call.Seconds(), ended, o.Client, o.Verb, o.Key)
	if o.Expected != 0 {
		fmt.Fprintf(&text, " at %d", o.Expected)
	}
	if o.Sent != "" {
		fmt.Fprintf(&text, " %s", o.Sent.short())
	}
	fmt.Fprintf(&text, ": %s", o.Outcome)
	if o.Object.Revision != 0 {
		fmt.Fprintf(&text, " @%d %s", o.Object.Revision, o.Object.Content.short())
	}
	return text.String()
}
