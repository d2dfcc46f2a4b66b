// Package history says whether what clients of a Kubernetes API saw of some
// objects can have been. It knows nothing of the server: a history is what was
// asked, what was answered, and when. Check judges it.
package history

import (
	"encoding/json"
	"fmt"
	"math"
	"sync"
	"time"
)

// Verb is what a client asked for.
type Verb string

// The verbs.
const (
	Create Verb = "create"
	Get    Verb = "get"
	Update Verb = "update"
	Patch  Verb = "patch" // a merge: keys that it does not name stay
	Delete Verb = "delete"
	List   Verb = "list"
)

// Outcome is what a client was told.
type Outcome string

// The outcomes. What is known not to have happened is not recorded at all.
const (
	Done     Outcome = "done"
	Exists   Outcome = "exists"
	NotFound Outcome = "not found"
	Conflict Outcome = "conflict"
	Expired  Outcome = "expired" // the revision a list asked for is no longer kept
	// Unknown: there was no answer, or one that leaves open what happened.
	Unknown Outcome = "unknown"
)

// Freshness is what a list asks for.
type Freshness string

// The kinds of lists.
const (
	Newest    Freshness = "newest"
	Exactly   Freshness = "exactly"
	NotBefore Freshness = "not before"
)

// Never is the return of an operation that was not answered.
const Never = time.Duration(math.MaxInt64)

// Content is what an object holds, in one canonical form.
type Content string

// NewContent is the form of some keys with values.
func NewContent(keys map[string]string) Content {
	text, err := json.Marshal(keys) // sorted by key
	if err != nil {
		panic(err) // strings only
	}
	return Content(text)
}

// Keys are the keys and values of c.
func (c Content) Keys() map[string]string {
	keys := make(map[string]string)
	if c == "" {
		return keys
	}
	if err := json.Unmarshal([]byte(c), &keys); err != nil {
		panic(fmt.Sprintf("content %q was not made by NewContent", string(c)))
	}
	return keys
}

// short is c, or where it begins.
func (c Content) short() Content {
	const most = 200
	if len(c) > most {
		return c[:most] + "…"
	}
	return c
}

// merge is c after a patch.
func (c Content) merge(patch Content) Content {
	keys := c.Keys()
	for k, v := range patch.Keys() {
		keys[k] = v
	}
	return NewContent(keys)
}

// Object is one revision of an object.
type Object struct {
	Revision int64
	UID      string
	Content  Content
}

// Operation is one request and its answer.
type Operation struct {
	Client       int
	Verb         Verb
	Key          string // of the object; of lists: empty
	Call, Return time.Duration
	Outcome      Outcome

	Sent     Content // by a write
	Expected int64   // the revision that an update or delete demands; 0: none

	// Object is what an answer showed: of a write the result, of a delete only
	// the UID.
	Object Object

	Freshness Freshness // of a list
	Asked     int64     // the revision that it named
	Revision  int64     // that it is of
	Objects   map[string]Object
}

// EventType is what a watch says of a change.
type EventType string

// The types of events.
const (
	Added    EventType = "ADDED"
	Modified EventType = "MODIFIED"
	Deleted  EventType = "DELETED"
	Bookmark EventType = "BOOKMARK"
)

// Event is one event of a watch.
type Event struct {
	Type   EventType
	Key    string
	Object Object // of a bookmark only the revision
	Time   time.Duration
}

// Selection is what a watch selects. Empty fields select everything.
type Selection struct {
	Key          string // the only key
	Field, Value string // of the content
}

func (s Selection) selects(key string, c Content) bool {
	return (s.Key == "" || s.Key == key) && (s.Field == "" || c.Keys()[s.Field] == s.Value)
}

// Session is one watch from its beginning to its end.
type Session struct {
	Watcher   string
	Selection Selection
	// From is the revision after which it began. Objects are what was there then,
	// if the watcher asked: nil if it did not.
	From    int64
	Objects map[string]Object
	Events  []Event
}

// Through is the newest revision up to which the watch told everything.
func (s *Session) Through() int64 {
	if len(s.Events) == 0 {
		return s.From
	}
	return s.Events[len(s.Events)-1].Object.Revision
}

// Informer is what a client that keeps a copy ended with, when it should have
// had a revision.
type Informer struct {
	Name     string
	Objects  map[string]Object
	Revision int64 // of the list it has to be equal to
}

// History is what several clients saw. It may be added to concurrently.
type History struct {
	began time.Time

	mu         sync.Mutex
	Operations []*Operation
	Sessions   []*Session
	Informers  []Informer
	// Failures are promises that were broken in ways of their own, such as a watch
	// that did not go on.
	Failures []string
}

// New returns an empty history that begins now.
func New() *History { return &History{began: time.Now()} }

// Now is the time since the history began.
func (h *History) Now() time.Duration { return time.Since(h.began) }

// Add records an operation that is over.
func (h *History) Add(o *Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Operations = append(h.Operations, o)
}

// AddSession records a watch that is over.
func (h *History) AddSession(s *Session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Sessions = append(h.Sessions, s)
}

// AddInformer records what an informer ended with.
func (h *History) AddInformer(i Informer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Informers = append(h.Informers, i)
}

// Fail records a broken promise.
func (h *History) Fail(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Failures = append(h.Failures, fmt.Sprintf(format, args...))
}

// Changes is how many changes all watches told.
func (h *History) Changes() (n int) {
	for _, s := range h.Sessions {
		n += len(s.Events)
	}
	return n
}
