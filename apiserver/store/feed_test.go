package store

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// event is a create of an object of some size.
func event(revision int64, key string, size int) *Event {
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: key}}
	item := newItem(obj, revision, key, nil)
	newShape(configMaps, new(forms), nil).keep(item, nil)
	item.size = size
	return &Event{New: item, Revision: revision, at: time.Now()}
}

func read(t *testing.T, c *cursor) (revisions []int64) {
	t.Helper()
	events, _, known := c.read(nil)
	if !known {
		t.Fatal("the cursor's place is gone")
	}
	for _, e := range events {
		revisions = append(revisions, e.Revision)
	}
	return revisions
}

// A reader that falls behind too far is told so; others do not notice.
func TestFeedIsBounded(t *testing.T) {
	f := newFeed(configMaps, 0)
	slow, quick := f.open(part{}, 0), f.open(part{}, 0)
	quiet := f.open(part{key: "a/other"}, 0) // wants nothing of what comes
	const events, size = 400, feedBytes / 200
	for i := int64(1); i <= events; i++ {
		f.append(event(i, "a/x", size))
		if got := read(t, quick); len(got) != 1 || got[0] != i {
			t.Fatalf("quick reader got %v, want %d", got, i)
		}
	}
	if f.bytes > feedBytes || len(f.all.events) != 200 || f.floor != 200 {
		t.Errorf("feed has %d events of %d bytes after %d, want 200 after 200", len(f.all.events), f.bytes, f.floor)
	}
	if _, _, known := slow.read(nil); known {
		t.Error("the slow reader was not told that it missed events")
	}
	if got := read(t, quiet); got != nil {
		t.Errorf("quiet reader got %v, want nothing", got)
	}
	if f.open(part{}, 199) != nil {
		t.Error("a cursor was placed before the events that are left")
	}
	if c := f.open(part{}, 200); c == nil || read(t, c)[0] != 201 {
		t.Error("no cursor at the first event that is left")
	}
}

// However large objects are, the feed keeps no more bytes than it may, in
// whichever direction their sizes change.
func TestFeedIsBoundedByBytes(t *testing.T) {
	f := newFeed(configMaps, 0)
	held := func() (bytes int) {
		for _, e := range f.all.events {
			if e.Old != nil {
				bytes += e.Old.size
			}
		}
		return bytes
	}
	var old *Item
	for i := range int64(200) {
		e := event(i+1, "a/x", feedBytes/10)
		if i%2 == 1 {
			e.New.size = 1
		}
		e.Old, old = old, e.New
		f.append(e)
		if got := held(); got > feedBytes {
			t.Fatalf("after %d events the feed holds %d bytes, want up to %d", i+1, got, feedBytes)
		}
	}
	if n := len(f.all.events); n < 8 {
		t.Errorf("the feed has %d events, want all that fit", n)
	}
	f.append(event(201, "a/x", feedBytes+1))
	if len(f.all.events) != 0 || f.bytes != 0 || f.floor != 201 {
		t.Errorf("after an event that is too large: %d events of %d bytes after %d, want none after 201", len(f.all.events), f.bytes, f.floor)
	}
}

// A watcher that stalls holds on to few large events.
func TestReadIsBoundedByBytes(t *testing.T) {
	f := newFeed(configMaps, 0)
	c := f.open(part{}, 0)
	for i := range int64(12) {
		f.append(event(i+1, "a/x", readBytes/2+1))
	}
	for i := int64(1); i < 12; i += 2 {
		if got := read(t, c); len(got) != 2 || got[0] != i {
			t.Errorf("got %v, want two events from %d on", got, i)
		}
	}
}

// Frames of all forms together are bounded: those of the oldest events go.
func TestFramesAreBounded(t *testing.T) {
	f := newFeed(configMaps, 0)
	kept := func() (bytes int) {
		for _, e := range f.all.events {
			for o := e.frames.head.Load(); o != nil && o != spent; o = o.next {
				bytes += len(o.bytes)
			}
		}
		return bytes
	}
	made := 0
	frame := func(e *Event, form int) {
		_, _ = e.Frame(form, func(*Event) ([]byte, error) { made++; return make([]byte, frameBytes/20), nil })
	}
	var events []*Event
	for i := range int64(10) {
		events = append(events, event(i+1, "a/x", 1))
		f.append(events[i])
	}
	for form := range 10 {
		for _, e := range events {
			frame(e, form)
			if got := kept(); got > frameBytes || got != f.framed {
				t.Fatalf("frames of %d bytes are kept and %d are counted, want up to %d", got, f.framed, frameBytes)
			}
		}
	}
	if kept() < frameBytes/2 {
		t.Errorf("frames of %d bytes are kept, want more", kept())
	}
	before := made
	frame(events[9], 9)
	if made != before {
		t.Error("the newest frame was not kept")
	}
	f.truncate(10)
	if f.framed != 0 {
		t.Errorf("%d bytes are counted of no frames", f.framed)
	}
}

func TestFeedParts(t *testing.T) {
	f := newFeed(configMaps, 0)
	f.append(event(1, "a/x", 1))
	early := f.open(part{key: "a/x"}, 0)
	for i, key := range []string{"a/y", "a/x", "b/x"} {
		f.append(event(int64(i+2), key, 1))
	}
	for _, c := range []struct {
		name   string
		cursor *cursor
		want   string
	}{
		{"all", f.open(part{}, 0), "[1 2 3 4]"},
		{"all from the middle", f.open(part{}, 2), "[3 4]"},
		{"object, open all the time", early, "[1 3]"},
		{"object", f.open(part{key: "a/x"}, 1), "[3]"},
		{"namespace", f.open(part{namespace: "a"}, 0), "[1 2 3]"},
		{"nothing", f.open(part{namespace: "c"}, 0), "[]"},
	} {
		if got := fmt.Sprint(read(t, c.cursor)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
		c.cursor.close()
	}
	if len(f.parts) != 0 {
		t.Errorf("%d parts are left without readers", len(f.parts))
	}
}

// Encoded bytes are shared while an event is fresh and let go afterwards.
func TestFeedCools(t *testing.T) {
	f := newFeed(configMaps, 0)
	e := event(1, "a/x", 1)
	f.append(e)
	made := 0
	frame := func() {
		_, _ = e.Frame("json", func(*Event) ([]byte, error) { made++; return nil, nil })
	}
	frame()
	f.append(event(2, "a/x", 1))
	frame()
	if made != 1 {
		t.Errorf("the frame of a fresh event was made %d times, want once", made)
	}
	f.cool(time.Now().Add(coolAfter))
	if e.frames.head.Load() != spent {
		t.Error("the frame of an old event is kept")
	}
	frame()
	if e.frames.head.Load() != spent {
		t.Error("the frame that a late watcher asked for is kept")
	}
	if made != 2 {
		t.Errorf("after cooling, the frame was made %d times in all, want twice", made)
	}
}
