package store

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Bounds of a feed, beside the time the store keeps history.
const (
	feedBytes  = 16 << 20 // of stored bytes; decoded objects take a few times that
	frameBytes = 16 << 20 // of frames made of the events
	readBatch  = 128      // events a watcher takes at a time
	readBytes  = 1 << 20  // of their stored bytes, but for the last
	// coolAfter is how long the encoded bytes of an event are kept. Watchers
	// that are not far behind have taken them by then.
	coolAfter = 20 * time.Second
)

// feed is the recent events of a kind, in order. Watchers are cursors into it:
// nothing is queued for them, and one that is slow holds up nobody; when its
// place has been dropped it is told so.
//
// Watchers that want only one object, one namespace or one value of the kind's
// index read a part: a second log with just those events, which exists while
// it has readers, so that a change wakes only those it concerns.
type feed struct {
	index string // the field of the kind by which watches are kept apart; empty: none

	mu     sync.RWMutex
	all    *log
	parts  map[part]*log
	floor  int64 // all events after this revision are there
	cold   int   // number of the first event that is not cool
	bytes  int   // that the events take, see Event.size
	framed int   // that the frames of those take that are not cool
}

// part names the events a log holds. One field is set, or none: all events.
type part struct {
	key, namespace, value string
}

// log is a window of events, numbered from when the log was made.
type log struct {
	part    part
	events  []*Event
	first   int           // the number of events[0]
	wake    chan struct{} // closed by the next append; nil while nobody waits
	readers int
}

func newFeed(r *resource.Resource, revision int64) *feed {
	return &feed{index: r.IndexBy, all: &log{readers: 1}, parts: make(map[part]*log), floor: revision}
}

// append adds events, all there are of their revisions, and drops the oldest
// while the feed is too large; new ones too, should they be too large alone.
func (f *feed) append(events ...*Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range events {
		e.feed = f
		f.all.append(e)
		f.bytes += e.size()
		for _, l := range f.logsOf(e) {
			l.append(e)
		}
	}
	for f.bytes > feedBytes {
		f.dropFirst()
	}
	f.cool(time.Now())
}

// cool lets the encoded bytes of older events go.
func (f *feed) cool(now time.Time) {
	for f.cold < f.all.end() && now.Sub(f.all.events[f.cold-f.all.first].at) >= coolAfter {
		f.coolNext()
	}
}

// coolNext lets the encoded bytes of the oldest event go that has some.
func (f *feed) coolNext() {
	e := f.all.events[f.cold-f.all.first]
	f.cold++
	f.framed -= e.framed
	e.cold = true
	e.cool()
}

// frameMade counts a frame that was made of e, and lets those of the oldest
// events go while there are too many.
func (f *feed) frameMade(e *Event, size int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e.cold {
		return // it is not kept
	}
	e.framed += size
	f.framed += size
	for f.framed > frameBytes && f.cold < f.all.end() {
		f.coolNext()
	}
}

// truncate drops the events up to and including revision.
func (f *feed) truncate(revision int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.floor = max(f.floor, revision)
	for len(f.all.events) > 0 && f.all.events[0].Revision <= revision {
		f.dropFirst()
	}
	for _, l := range f.parts {
		l.truncate(f.floor)
	}
	f.cool(time.Now())
}

// dropFirst drops the events of the oldest revision that is there.
func (f *feed) dropFirst() {
	revision := f.all.events[0].Revision
	n := f.all.index(revision)
	for f.cold < f.all.first+n {
		f.coolNext()
	}
	f.floor = max(f.floor, revision)
	for _, e := range f.all.events[:n] {
		f.bytes -= e.size()
		for _, l := range f.logsOf(e) {
			l.truncate(revision)
		}
	}
	f.all.truncate(revision)
}

// reset empties the feed: nothing before revision is known any more.
func (f *feed) reset(revision int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.cold < f.all.end() {
		f.coolNext()
	}
	f.floor, f.bytes = revision, 0
	f.all.reset()
	f.cold = f.all.first
	for _, l := range f.parts {
		l.reset()
	}
}

// inherit takes over the events of another feed of the same kind, which ends
// where f begins. f has no readers yet.
func (f *feed) inherit(old *feed) {
	old.mu.Lock()
	defer old.mu.Unlock()
	for old.cold < old.all.end() {
		old.coolNext()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all.events = slices.Concat(old.all.events, f.all.events)
	f.floor, f.bytes = old.floor, f.bytes+old.bytes
}

// wakeReaders has those who wait look again, and see that it is over.
func (f *feed) wakeReaders() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all.wakeReaders()
	for _, l := range f.parts {
		l.wakeReaders()
	}
}

// logsOf are the logs of parts that hold e.
func (f *feed) logsOf(e *Event) (logs []*log) {
	if e.unreadable() {
		for p, l := range f.parts {
			if f.holds(p, e) {
				logs = append(logs, l)
			}
		}
		return logs
	}
	for _, p := range f.partsOf(e) {
		if l := f.parts[p]; l != nil {
			logs = append(logs, l)
		}
	}
	return logs
}

// holds reports whether a part has e. What is unreadable may have any value.
func (f *feed) holds(p part, e *Event) bool {
	return p.value != "" && e.unreadable() || slices.Contains(f.partsOf(e), p)
}

// partsOf names the parts that hold e, as far as it can be read.
func (f *feed) partsOf(e *Event) []part {
	key := e.item().key
	parts := make([]part, 0, 4)
	parts = append(parts, part{key: key})
	if namespace, _, ok := strings.Cut(key, "/"); ok {
		parts = append(parts, part{namespace: namespace})
	}
	if f.index == "" {
		return parts
	}
	was, known := f.value(e.Old)
	if known {
		parts = append(parts, part{value: was})
	}
	if is, ok := f.value(e.New); ok && (!known || is != was) {
		parts = append(parts, part{value: is})
	}
	return parts
}

// value is what an item is indexed by; of what is unreadable nobody knows.
func (f *feed) value(item *Item) (value string, known bool) {
	if item == nil || item.broken != nil {
		return "", false
	}
	return item.value, true
}

// after returns the events after a revision; known is false if some of them
// have been dropped.
func (f *feed) after(revision int64) (events []*Event, known bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if revision < f.floor {
		return nil, false
	}
	return slices.Clone(f.all.events[f.all.index(revision):]), true
}

// cursor is a reader's place in a log.
type cursor struct {
	feed *feed
	log  *log
	next int // number of the next event to read
}

// open places a cursor after a revision; nil if events after it have been
// dropped. The cursor must be closed.
func (f *feed) open(p part, revision int64) *cursor {
	f.mu.Lock()
	defer f.mu.Unlock()
	if revision < f.floor {
		return nil
	}
	l := f.log(p)
	l.readers++
	return &cursor{feed: f, log: l, next: l.first + l.index(revision)}
}

// log finds or makes the log of a part.
func (f *feed) log(p part) *log {
	if p == (part{}) {
		return f.all
	}
	if l := f.parts[p]; l != nil {
		return l
	}
	l := &log{part: p}
	for _, e := range f.all.events {
		if f.holds(p, e) {
			l.events = append(l.events, e)
		}
	}
	f.parts[p] = l
	return l
}

func (c *cursor) close() {
	c.feed.mu.Lock()
	defer c.feed.mu.Unlock()
	c.log.readers--
	if c.log.readers == 0 {
		delete(c.feed.parts, c.log.part)
	}
}

// read takes the next events. If there are none it returns a channel that is
// closed when there may be. known is false if the cursor's place is gone.
func (c *cursor) read(into []*Event) (events []*Event, wake <-chan struct{}, known bool) {
	events, known = c.take(into)
	if !known || len(events) > 0 {
		return events, nil, known
	}
	c.feed.mu.Lock()
	defer c.feed.mu.Unlock()
	if c.next != c.log.end() {
		return nil, ready, true
	}
	if c.log.wake == nil {
		c.log.wake = make(chan struct{})
	}
	return nil, c.log.wake, true
}

func (c *cursor) take(into []*Event) (events []*Event, known bool) {
	c.feed.mu.RLock()
	defer c.feed.mu.RUnlock()
	if c.next < c.log.first {
		return nil, false
	}
	rest := c.log.events[c.next-c.log.first:]
	events = into[:0]
	for size := 0; len(events) < min(len(rest), readBatch) && size < readBytes; {
		e := rest[len(events)]
		events = append(events, e)
		size += e.size()
	}
	c.next += len(events)
	return events, true
}

var ready = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func (l *log) end() int { return l.first + len(l.events) }

// index is the position in events of the first one after a revision.
func (l *log) index(revision int64) int {
	i, _ := slices.BinarySearchFunc(l.events, revision+1, func(e *Event, r int64) int { return int(e.Revision - r) })
	return i
}

func (l *log) append(e *Event) {
	l.events = append(l.events, e)
	l.wakeReaders()
}

// wakeReaders has those who wait look again.
func (l *log) wakeReaders() {
	if l.wake != nil {
		close(l.wake)
		l.wake = nil
	}
}

// reset drops all events and the places of all readers.
func (l *log) reset() {
	l.first += len(l.events) + 1
	l.events = nil
	l.wakeReaders()
}

func (l *log) truncate(revision int64) {
	n := l.index(revision)
	clear(l.events[:n])
	l.events = l.events[n:]
	l.first += n
}
