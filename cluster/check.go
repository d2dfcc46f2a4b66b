package cluster

import (
	"errors"
	"fmt"
	"math/bits"
	"os"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/cluster/node"
)

// podBits are the lengths of the prefixes that the controllers give each node of the
// pods' ranges unless they are told otherwise, by the bits of an address.
var podBits = map[int]int{32: 24, 128: 64}

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
	if _, ok := c.PodCIDRs.Of(corev1.IPv4Protocol); c.DNSCache && !ok {
		return errors.New("the nodes' caches of DNS answers have an address of IPv4, and pods have none; run without --dns-cache")
	}
	return node.CheckPrograms(c.Tools)
}

// bitsFor is how many bits tell n things apart.
func bitsFor(n int) int { return bits.Len(uint(max(n-1, 0))) }
