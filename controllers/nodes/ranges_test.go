package nodes

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// TestRangesAreTheLowestThatAreFree gives, chooses and releases ranges at random. What is given is what a look at all
// that is taken says.
func TestRangesAreTheLowestThatAreFree(t *testing.T) {
	shares := []Share{{netip.MustParsePrefix("10.0.0.0/20"), 26}, {netip.MustParsePrefix("fd00::/58"), 64}}
	for seed := range uint64(50) {
		r, random := newRanges(shares), rand.New(rand.NewPCG(seed, 0))
		for step := range 300 {
			node := fmt.Sprint(random.IntN(80))
			switch random.IntN(4) {
			case 0:
				r.release(node)
			case 1:
				if random.IntN(4) == 0 { // by hand, of any size
					at := netip.AddrFrom4([4]byte{10, 0, byte(random.IntN(16)), byte(random.IntN(256))})
					r.hold(node, []string{netip.PrefixFrom(at, 18+random.IntN(12)).String()})
				}
			default:
				want := r.held[node]
				if want == nil {
					want = lowest(shares, r.held)
				}
				got, err := r.give(node)
				if (err != nil) != (want == nil) {
					t.Fatalf("seed %d step %d: got %v, want %v", seed, step, err, want)
				}
				for i := range got {
					if got[i] != want[i].String() {
						t.Fatalf("seed %d step %d: got %v, want %v", seed, step, got, want)
					}
				}
			}
		}
	}
}

func lowest(shares []Share, held map[string][]netip.Prefix) (free []netip.Prefix) {
	for _, share := range shares {
		candidate := netip.PrefixFrom(share.Cluster.Addr(), share.Bits)
		for ; share.Cluster.Contains(candidate.Addr()); candidate = netip.PrefixFrom(next(candidate), share.Bits) {
			if !overlaps(held, candidate) {
				free = append(free, candidate)
				break
			}
		}
	}
	if len(free) < len(shares) {
		return nil
	}
	return free
}

func next(p netip.Prefix) netip.Addr {
	addr, _ := after(p)
	return addr
}

func overlaps(held map[string][]netip.Prefix, candidate netip.Prefix) bool {
	for _, prefixes := range held {
		if slices.ContainsFunc(prefixes, candidate.Overlaps) {
			return true
		}
	}
	return false
}

// BenchmarkRanges is what a range costs for each of many nodes that come.
func BenchmarkRanges(b *testing.B) {
	for _, nodes := range []int{100, 5000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			for b.Loop() {
				r := newRanges([]Share{{netip.MustParsePrefix("100.64.0.0/10"), 24}})
				for i := range nodes {
					if _, err := r.give(fmt.Sprint(i)); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*nodes), "ns/node")
		})
	}
}
