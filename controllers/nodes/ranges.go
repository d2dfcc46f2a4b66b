package nodes

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
)

// Share is what every node gets of a range of the cluster: a prefix of a length.
type Share struct {
	Cluster netip.Prefix
	Bits    int
}

var errNoRange = errors.New("no pod address range is free")

// ranges is which node has which ranges of pod addresses. Safe for concurrent use.
type ranges struct {
	shares []Share

	mu    sync.Mutex
	held  map[string][]netip.Prefix // by node
	taken []netip.Prefix            // the same, as byAddress sorts them
	// low is for each share the prefix below which none is free; the zero prefix: that is not known.
	low []netip.Prefix
}

func newRanges(shares []Share) *ranges {
	return &ranges{shares: shares, held: make(map[string][]netip.Prefix), low: make([]netip.Prefix, len(shares))}
}

// hold notes the ranges that a node has. What is no range is left out.
func (r *ranges) hold(node string, texts []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var prefixes []netip.Prefix
	for _, text := range texts {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			prefixes = append(prefixes, prefix)
		}
	}
	if slices.Equal(r.held[node], prefixes) {
		return
	}
	r.drop(node)
	r.add(node, prefixes)
	clear(r.low) // somebody else has chosen them, of whatever size
}

// release makes the ranges of a node that is gone free again.
func (r *ranges) release(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(node)
}

// give gives a node the lowest range of each share that no node has, or those that it was given before.
func (r *ranges) give(node string) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	prefixes := r.held[node]
	if prefixes == nil {
		for i, share := range r.shares {
			prefix, err := r.firstFree(share, r.low[i])
			if err != nil {
				return nil, fmt.Errorf("of %s: %w", share.Cluster, err)
			}
			prefixes = append(prefixes, prefix)
		}
		copy(r.low, prefixes)
		r.add(node, prefixes)
	}
	texts := make([]string, len(prefixes))
	for i, prefix := range prefixes {
		texts[i] = prefix.String()
	}
	return texts, nil
}

func (r *ranges) add(node string, prefixes []netip.Prefix) {
	r.held[node] = prefixes
	for _, prefix := range prefixes {
		i, _ := slices.BinarySearchFunc(r.taken, prefix, byAddress)
		r.taken = slices.Insert(r.taken, i, prefix)
	}
}

func (r *ranges) drop(node string) {
	for _, prefix := range r.held[node] {
		if i, ok := slices.BinarySearchFunc(r.taken, prefix, byAddress); ok {
			r.taken = slices.Delete(r.taken, i, i+1)
		}
	}
	clear(r.low)
	delete(r.held, node)
}

func byAddress(a, b netip.Prefix) int {
	return cmp.Or(a.Masked().Addr().Compare(b.Masked().Addr()), cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
}

// firstFree is the lowest range of a share that is free. None is below low.
func (r *ranges) firstFree(share Share, low netip.Prefix) (netip.Prefix, error) {
	if !low.IsValid() {
		return firstFree(share.Cluster, netip.PrefixFrom(share.Cluster.Addr(), share.Bits), r.taken)
	}
	// What begins below low ends there: low would not have been free else.
	begin, _ := slices.BinarySearchFunc(r.taken, low, func(a, b netip.Prefix) int { return a.Masked().Addr().Compare(b.Addr()) })
	return firstFree(share.Cluster, low, r.taken[begin:])
}

// firstFree returns the lowest prefix within cluster, of the length of low and not below it, that overlaps none that is
// taken, which are sorted by address.
func firstFree(cluster, low netip.Prefix, taken []netip.Prefix) (netip.Prefix, error) {
	candidate := low
	for _, prefix := range taken { // the candidate need only be compared with each once: it moves past it for good
		if !prefix.Overlaps(candidate) {
			if candidate.Addr().Less(prefix.Masked().Addr()) {
				break // and so do the others lie behind it
			}
			continue
		}
		blocked := candidate
		if prefix.Bits() < low.Bits() {
			blocked = prefix.Masked()
		}
		past, ok := after(blocked)
		if !ok {
			return netip.Prefix{}, errNoRange
		}
		candidate = netip.PrefixFrom(past, low.Bits())
	}
	if !cluster.Contains(candidate.Addr()) {
		return netip.Prefix{}, errNoRange
	}
	return candidate, nil
}

// after returns the first address behind a prefix, ok is false if there is none.
func after(prefix netip.Prefix) (addr netip.Addr, ok bool) {
	bytes := prefix.Addr().AsSlice()
	for i := prefix.Bits() - 1; i >= 0; i-- {
		bytes[i/8] ^= 1 << (7 - i%8)
		if bytes[i/8]&(1<<(7-i%8)) != 0 { // no carry
			addr, _ = netip.AddrFromSlice(bytes)
			return addr, true
		}
	}
	return netip.Addr{}, false
}
