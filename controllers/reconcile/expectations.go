package reconcile

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// expectationLifetime bounds how long a lost event can hold an owner back.
const expectationLifetime = 5 * time.Minute

// Expectations remembers, per owner, which creations and deletions the cache has not shown yet, so that a loop
// that counts its children in a cache neither creates nor deletes twice. Announce before the request, report
// from the informer's handler or when the request failed, and act only while Met. Safe for concurrent use.
type Expectations struct {
	mu     sync.Mutex
	owners map[types.UID]*pending
}

type pending struct {
	creations int
	deletions map[types.UID]bool
	since     time.Time
}

// NewExpectations returns expectations that are all met.
func NewExpectations() *Expectations {
	return &Expectations{owners: map[types.UID]*pending{}}
}

// Creating announces n creations of children of owner.
func (e *Expectations) Creating(owner types.UID, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.of(owner).creations += n
}

// Created reports that one announced creation was seen, or will never be.
func (e *Expectations) Created(owner types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.owners[owner]; p != nil && p.creations > 0 {
		p.creations--
	}
}

// Deleting announces the deletion of one child of owner.
func (e *Expectations) Deleting(owner, child types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.of(owner).deletions[child] = true
}

// Deleted reports that a child is gone or going, or that its deletion failed.
func (e *Expectations) Deleted(owner, child types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.owners[owner]; p != nil {
		delete(p.deletions, child)
	}
}

// Met tells whether the cache shows all that was announced, or had time enough to.
func (e *Expectations) Met(owner types.UID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.owners[owner]
	if p == nil {
		return true
	}
	if p.creations > 0 || len(p.deletions) > 0 {
		if time.Since(p.since) < expectationLifetime {
			return false
		}
	}
	delete(e.owners, owner)
	return true
}

// Going tells whether the deletion of a child was announced and not seen yet.
func (e *Expectations) Going(owner, child types.UID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.owners[owner]
	return p != nil && p.deletions[child]
}

// Forget drops what is known of an owner that is gone.
func (e *Expectations) Forget(owner types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.owners, owner)
}

func (e *Expectations) of(owner types.UID) *pending {
	p := e.owners[owner]
	if p == nil {
		p = &pending{deletions: map[types.UID]bool{}}
		e.owners[owner] = p
	}
	p.since = time.Now()
	return p
}
