package cluster

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"os"

	"github.com/skiff-k8s/skiff/cluster/node"
)

// podBits is the length of the prefix that the controllers give each node of the
// pods' range unless they are told otherwise.
const podBits = 24

// check says what keeps the cluster from running, before anything was done.
func (c Config) check() error {
	for _, n := range []int{c.Nodes, c.FakeNodes} {
		if n < 0 {
			return fmt.Errorf("a cluster cannot have %d nodes", n)
		}
	}
	if err := c.checkRanges(); err != nil {
		return err
	}
	if c.Nodes == 0 {
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("nodes need root; run as root, or a control plane alone with --nodes 0")
	}
	if c.Listen.Addr().IsLoopback() {
		return fmt.Errorf("pods could not reach an API that listens on %s; listen on another address, or run no nodes", c.Listen)
	}
	return node.CheckPrograms(c.Tools)
}

// checkRanges says what is wrong with the ranges of addresses.
func (c Config) checkRanges() error {
	ranges := []struct {
		what   string
		prefix netip.Prefix
		nodes  int
		most   int // bits, for what has to fit in
	}{
		{"Service", c.ServiceCIDR, c.Nodes, 28}, // DNS has the tenth address
		{"pod", c.PodCIDR, c.Nodes + c.FakeNodes, podBits - bitsFor(c.Nodes+c.FakeNodes)},
		{"node", c.NodeCIDR, c.Nodes, 32 - bitsFor(c.Nodes+3)}, // the network's own, this machine, broadcast
	}
	for i, r := range ranges {
		if !r.prefix.Addr().Is4() {
			return fmt.Errorf("the %s range %s is not one of IPv4", r.what, r.prefix)
		}
		if r.prefix.Bits() > r.most {
			return fmt.Errorf("the %s range %s is too small for %d nodes: it must be at least a /%d", r.what, r.prefix, r.nodes, r.most)
		}
		for _, other := range ranges[:i] {
			if r.prefix.Overlaps(other.prefix) {
				return fmt.Errorf("the %s range %s overlaps with the %s range %s", r.what, r.prefix, other.what, other.prefix)
			}
		}
	}
	return nil
}

// bitsFor is how many bits tell n things apart.
func bitsFor(n int) int { return bits.Len(uint(max(n-1, 0))) }
