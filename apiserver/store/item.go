package store

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Item is one revision of one object: immutable and shared by everyone who
// reads it.
type Item struct {
	object   resource.Object // nil if kept is set
	kept     *kept
	broken   error // an *UnreadableError, and no object; callers never get such items
	revision int64
	key      string // below the prefix of the kind: "namespace/name" or "name"
	size     int    // of the stored bytes
	labels   *labelSet
	value    string // of the field that the kind is indexed by
	encoded  onces
	used     atomic.Bool // somebody has asked for an encoded form lately
	like     likeness    // what is stored and the protobuf message
	formed   int         // bytes of the forms; guarded by forms.mu
}

// newItem makes obj, which it takes over, an item at a revision; 0 leaves the
// object without a resourceVersion (dry runs of create).
func newItem(obj resource.Object, revision int64, key string, stored []byte) *Item {
	version := ""
	if revision > 0 {
		version = strconv.FormatInt(revision, 10)
	}
	obj.SetResourceVersion(version)
	return &Item{object: obj, revision: revision, key: key, size: len(stored)}
}

// Object is the stored version of the object with its resourceVersion set,
// kind and apiVersion filled in and defaults applied. It must not be changed.
func (i *Item) Object() resource.Object {
	if i.kept != nil {
		return i.kept.open()
	}
	return i.object
}

// Revision is that of the write that made the item; 0 for a dry run of create.
func (i *Item) Revision() int64 { return i.revision }

// Encoded returns the bytes of a form of the object, made by make and then
// shared, unless that fails, for as long as somebody asks for them every now and
// then. A form is a small comparable value that says all that the bytes depend
// on (media type, version, transformation).
func (i *Item) Encoded(form any, make func(resource.Object) ([]byte, error)) ([]byte, error) {
	if i.kept == nil {
		return make(i.object)
	}
	forms := i.kept.forms
	if forms.full() && i.encoded.head.Load() == nil {
		return make(i.Object())
	}
	if !i.used.Load() {
		i.used.Store(true)
	}
	return i.encoded.get(form, func() ([]byte, error) {
		data, err := make(i.Object())
		if err == nil {
			forms.made(i, len(data))
		}
		return data, err
	})
}

// Event is one change of one object, shared by all its watchers. Old is nil on
// create, New is nil on delete.
type Event struct {
	New, Old *Item
	Revision int64

	at     time.Time // when it was applied
	last   atomic.Pointer[Item]
	frames onces

	feed   *feed // that has it, or had it
	cold   bool  // no frames are kept any more; guarded by feed.mu, like framed
	framed int   // bytes of frames
}

// Last is the object as a watcher sees it with this event: New or, for a
// delete, the old object at the revision of the delete.
func (e *Event) Last() *Item {
	if e.New != nil {
		return e.New
	}
	if item := e.last.Load(); item != nil {
		return item
	}
	item := &Item{kept: e.Old.kept.at(e.Revision), revision: e.Revision, key: e.Old.key, size: e.Old.size, labels: e.Old.labels, value: e.Old.value}
	item.like.known.Store(e.Old.like.known.Load()) // nothing but the revision is another
	e.last.CompareAndSwap(nil, item)
	return e.last.Load()
}

// Frame returns the bytes of a watch event in a form, made once by make and
// then shared by all watchers of that form but those who come late (see
// coolAfter). The form says everything
// the bytes depend on, the type of the event (ADDED or DELETED by a selector)
// included.
func (e *Event) Frame(form any, make func(*Event) ([]byte, error)) ([]byte, error) {
	return e.frames.get(form, func() ([]byte, error) {
		frame, err := make(e)
		if e.feed != nil {
			e.feed.frameMade(e, len(frame))
		}
		return frame, err
	})
}

// cool gives up the frames of the event, for which hardly anybody will ask
// again; for those who do they are made anew.
func (e *Event) cool() { e.frames.head.Store(spent) }

// size is what the event counts in the feed: stored bytes of the larger of its
// items, of which one at least is held by the feed alone sooner or later.
func (e *Event) size() int {
	size := 0
	for _, item := range []*Item{e.New, e.Old} {
		if item != nil {
			size = max(size, item.size)
		}
	}
	return size
}

// item is the one that names the object of the event, without its Last copy.
func (e *Event) item() *Item {
	if e.New != nil {
		return e.New
	}
	return e.Old
}

// unreadable reports whether one of the items is.
func (e *Event) unreadable() bool {
	return e.New != nil && e.New.broken != nil || e.Old != nil && e.Old.broken != nil
}

// onces is a small set of byte strings that are each made once. The zero value
// is empty and takes one word: most items are never encoded, those that are
// have one to three forms.
type onces struct {
	head atomic.Pointer[once]
}

// spent is the head of a set that keeps nothing any more.
var spent = new(once)

type once struct {
	form   any
	do     sync.Once
	bytes  []byte
	err    error
	failed atomic.Bool // err is set: nobody is to find the entry any more
	next   *once
}

func (o *onces) get(form any, make func() ([]byte, error)) ([]byte, error) {
	entry := o.entry(form)
	if entry == nil {
		return make()
	}
	entry.do.Do(func() { entry.bytes, entry.err = make() })
	if entry.err != nil {
		entry.failed.Store(true) // the next one may have more luck
	}
	return entry.bytes, entry.err
}

// entry finds the entry of form or puts a new one in front; nil if the set is
// spent.
func (o *onces) entry(form any) *once {
	for {
		head := o.head.Load()
		if head == spent {
			return nil
		}
		for e := head; e != nil; e = e.next {
			if e.form == form && !e.failed.Load() {
				return e
			}
		}
		next := head
		for next != nil && next.failed.Load() {
			next = next.next
		}
		e := &once{form: form, next: next}
		if o.head.CompareAndSwap(head, e) {
			return e
		}
	}
}
