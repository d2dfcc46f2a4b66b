package store

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/skiff-k8s/skiff/guard"
)

// Bounds of the encoded forms of items that are kept, of all kinds together.
const (
	formBytes = 64 << 20
	// formsFor is how long the forms of an item are kept that nobody asks for, and
	// up to twice that.
	formsFor = 15 * time.Second
)

// forms are the items that have encoded forms. Whoever lists again and again, or
// many who list at once, have each object encoded once; what was read once is
// soon let go.
type forms struct {
	bytes atomic.Int64 // of all forms

	mu    sync.Mutex
	items []*Item
	timer *time.Timer // runs while there are items
}

// full reports whether no more forms are kept.
func (f *forms) full() bool { return f.bytes.Load() >= formBytes }

// made notes that a form of item was made.
func (f *forms) made(item *Item, size int) {
	f.bytes.Add(int64(size))
	item.used.Store(true)
	f.mu.Lock()
	defer f.mu.Unlock()
	if item.formed += size; item.formed > size {
		return // it is among them
	}
	f.items = append(f.items, item)
	switch {
	case f.timer == nil:
		f.timer = guard.After(formsFor, "encoded forms", f.sweep)
	case len(f.items) == 1:
		f.timer.Reset(formsFor)
	}
}

// sweep lets the forms go that nobody has asked for since the last sweep.
func (f *forms) sweep() {
	f.mu.Lock()
	defer f.mu.Unlock()
	kept := f.items[:0]
	for _, item := range f.items {
		if item.used.Swap(false) {
			kept = append(kept, item)
			continue
		}
		item.encoded.head.Store(nil)
		f.bytes.Add(-int64(item.formed))
		item.formed = 0
	}
	clear(f.items[len(kept):])
	if f.items = kept; len(kept) > 0 {
		f.timer.Reset(formsFor)
	} else {
		f.items = nil
	}
}
