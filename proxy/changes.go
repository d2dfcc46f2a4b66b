package proxy

import (
	"sync"
	"time"
)

// changes are the Services about which something has changed.
type changes struct {
	there chan struct{} // has a token while there are some

	mu    sync.Mutex
	names map[string]bool
	node  bool // the node itself has
	// since is when the oldest of them came, taken when the oldest of those did that
	// were taken and are not done; zero: there is none.
	since, taken time.Time
}

func newChanges() *changes {
	return &changes{there: make(chan struct{}, 1), names: make(map[string]bool)}
}

func (c *changes) note(name string) { c.add(func() { c.names[name] = true }) }

func (c *changes) noteNode() { c.add(func() { c.node = true }) }

func (c *changes) add(change func()) {
	c.mu.Lock()
	change()
	if c.since.IsZero() {
		c.since = time.Now()
	}
	c.mu.Unlock()
	select {
	case c.there <- struct{}{}:
	default:
	}
}

// take is all until now.
func (c *changes) take() (names map[string]bool, node bool) {
	select { // what it stands for is part of this
	case <-c.there:
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	names, node = c.names, c.node
	c.names, c.node = make(map[string]bool), false
	if c.taken.IsZero() {
		c.taken = c.since
	}
	c.since = time.Time{}
	return names, node
}

// done says that all that was taken is in force.
func (c *changes) done() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = time.Time{}
}

// waiting is when the oldest change came that is not in force; zero: there is none.
func (c *changes) waiting() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.taken.IsZero() {
		return c.since
	}
	return c.taken
}
