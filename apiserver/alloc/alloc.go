// Package alloc gives Services their cluster addresses and node ports.
//
// What is given out is a claim: a stored record that exists for one address or
// one port. A claim is taken by a write that fails if another one took it
// first, so two requests, or two servers on one database, can never both
// succeed, and a restart forgets nothing. For an address the record is the
// IPAddress object of networking.k8s.io (KEP-1880), which users can list and
// which names the Service it belongs to; for a port it is a bit of a note that
// no API shows. Both are those of kube-apiserver, which can so serve the same
// cluster.
//
// A server that dies between taking a claim and storing the Service leaves a
// claim without a Service; Run finds such claims and removes them. A claim is
// given back only after the Service that held it has been changed or deleted.
//
// Addresses come from all ranges of their family whose ServiceCIDR objects are
// ready, those of the range the server began with first. Which families Services
// can have is said by the ranges the server began with.
//
// Claims for values nobody asked for by number are taken from the upper part
// of the range first, which leaves the lower part to those who choose numbers
// themselves (KEP-3070 for addresses, KEP-3668 for ports).
package alloc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
)

// Errors of taking a value. Their texts are part of the API.
var (
	ErrForeign      = errors.New("the provided network does not match the current range")
	ErrFull         = errors.New("range is full")
	ErrAddressTaken = errors.New("provided IP is already allocated")
	ErrPortTaken    = errors.New("provided port is already allocated")
)

// errTaken is what Claims answer when another owner has the value.
var errTaken = errors.New("already claimed")

// Owner is the Service a claim belongs to.
type Owner struct{ Namespace, Name string }

// Claims are the stored records of addresses, or of ports.
type Claims[V comparable] interface {
	// Take makes the record of value; errTaken if there is one.
	Take(ctx context.Context, value V, owner Owner) error
	// Free removes the record of value if it belongs to owner. It is no error
	// if there is none.
	Free(ctx context.Context, value V, owner Owner) error
	// All are the values claimed, with their owners.
	All(ctx context.Context) (map[V]Owner, error)
}

// pool is a range of values of which some must never be handed out.
type pool[V comparable] struct {
	// size is how many values there are, low where the part begins that is used
	// first for values nobody chose.
	size, low uint64
	at        func(offset uint64) V
	usable    func(value V) bool
	claims    Claims[V]
}

// tries is how many random values are tried before all claims are listed. With
// a range half full, one in a thousand requests lists.
const tries = 10

// next takes any free value for owner. With dryRun it only finds one that is
// not among found.
func (p *pool[V]) next(ctx context.Context, owner Owner, dryRun bool, found map[V]bool) (V, error) {
	var none V
	if !dryRun {
		for range tries {
			value := p.at(p.low + rand.Uint64N(p.size-p.low))
			if !p.usable(value) {
				continue
			}
			err := p.claims.Take(ctx, value, owner)
			if !errors.Is(err, errTaken) {
				return value, err
			}
		}
	}
	taken, err := p.claims.All(ctx)
	if err != nil {
		return none, fmt.Errorf("list claims: %w", err)
	}
	for value := range p.search() {
		if _, ok := taken[value]; ok || found[value] {
			continue
		}
		if dryRun {
			return value, nil
		}
		err := p.claims.Take(ctx, value, owner)
		if !errors.Is(err, errTaken) {
			return value, err
		}
	}
	return none, ErrFull
}

// search yields every usable value once, those of the upper part first, each
// part from a random place on.
func (p *pool[V]) search() func(yield func(V) bool) {
	return func(yield func(V) bool) {
		for _, part := range [][2]uint64{{p.low, p.size}, {0, p.low}} {
			first, n := part[0], part[1]-part[0]
			if n == 0 {
				continue
			}
			start := rand.Uint64N(n)
			for i := range n {
				value := p.at(first + (start+i)%n)
				if p.usable(value) && !yield(value) {
					return
				}
			}
		}
	}
}

// take claims value for owner; errTaken. With dryRun it only looks.
func (p *pool[V]) take(ctx context.Context, value V, owner Owner, dryRun bool) error {
	if !dryRun {
		return p.claims.Take(ctx, value, owner)
	}
	taken, err := p.claims.All(ctx)
	if err != nil {
		return fmt.Errorf("list claims: %w", err)
	}
	if _, ok := taken[value]; ok {
		return errTaken
	}
	return nil
}

// band is where the upper part of a range of size values begins: a fraction of
// the range, but at least least and at most most, or 0 where the range is too
// small to be divided.
func band(size, fraction, least, most uint64) uint64 {
	if size <= least {
		return 0
	}
	return min(max(least, size/fraction), most)
}
