package nodes

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Share is what every node gets of a range of the cluster: a prefix of a length.
type Share struct {
	Cluster netip.Prefix
	Bits    int
}

// CIDR gives every node that has none a range of pod addresses out of each of the cluster's, which are of different
// families. A node's ranges never change; they are free again when the node is deleted. It is woken by a node, and
// works on one at a time, so that no range is given twice.
func CIDR(d Deps, shares []Share) reconcile.Controller {
	nodes := d.Informers.Core().V1().Nodes()
	c := &cidrs{
		client: d.Client, nodes: nodes.Lister(), shares: shares,
		events: d.Recorder("cidrAllocator"),
		given:  map[string][]string{},
	}
	return reconcile.Controller{
		Name:    "NodeCIDR",
		Workers: 1,
		Watch: []reconcile.Source{
			reconcile.On(nodes.Informer(), func(old, node *corev1.Node) []reconcile.Key {
				switch {
				case node == nil:
					return []reconcile.Key{reconcile.KeyOf(old)}
				case len(node.Spec.PodCIDRs) > 0:
					return nil
				}
				return []reconcile.Key{reconcile.KeyOf(node)}
			}),
		},
		Sync: c.sync,
	}
}

type cidrs struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	shares []Share
	events record.EventRecorder
	given  map[string][]string // by node, as long as the cache may not show it; used by the one worker only
}

func (c *cidrs) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	node, err := c.nodes.Get(key.Name)
	if apierrors.IsNotFound(err) {
		delete(c.given, key.Name)
		return 0, nil
	}
	if err != nil || len(node.Spec.PodCIDRs) > 0 {
		return 0, err
	}
	free, ok := c.given[node.Name] // the write may have failed, or not be seen yet
	if !ok {
		if free, err = c.free(); err != nil {
			c.events.Eventf(aboutNode(node), corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: %s", node.Name, "CIDRNotAvailable")
			return 0, fmt.Errorf("node %s: %w", node.Name, err)
		}
		c.given[node.Name] = free
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": free[0], "podCIDRs": free},
	})
	if err != nil {
		return 0, err
	}
	if _, err := c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		delete(c.given, node.Name)
		return 0, fmt.Errorf("give %v to node %s: %w", free, node.Name, err)
	}
	return 0, nil
}

// free returns the lowest range of each family that no node has.
func (c *cidrs) free() ([]string, error) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var taken []netip.Prefix
	take := func(texts []string) {
		for _, text := range texts {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				taken = append(taken, prefix)
			}
		}
	}
	for _, node := range nodes {
		take(node.Spec.PodCIDRs)
		if len(node.Spec.PodCIDRs) > 0 {
			delete(c.given, node.Name)
		}
	}
	for _, ranges := range c.given {
		take(ranges)
	}
	var free []string
	for _, share := range c.shares {
		prefix, err := firstFree(share.Cluster, share.Bits, taken)
		if err != nil {
			return nil, fmt.Errorf("of %s: %w", share.Cluster, err)
		}
		free = append(free, prefix.String())
	}
	return free, nil
}

var errNoRange = errors.New("no pod address range is free")

// firstFree returns the lowest prefix of a length within cluster that overlaps none that is taken. It reorders taken.
func firstFree(cluster netip.Prefix, bits int, taken []netip.Prefix) (netip.Prefix, error) {
	// In this order, the candidate need only be compared with each prefix once: it moves past it for good.
	slices.SortFunc(taken, func(a, b netip.Prefix) int {
		return cmp.Or(a.Masked().Addr().Compare(b.Masked().Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	candidate := netip.PrefixFrom(cluster.Addr(), bits)
	for _, prefix := range taken {
		if !prefix.Overlaps(candidate) {
			continue
		}
		blocked := candidate
		if prefix.Bits() < bits {
			blocked = prefix.Masked()
		}
		past, ok := after(blocked)
		if !ok {
			return netip.Prefix{}, errNoRange
		}
		candidate = netip.PrefixFrom(past, bits)
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
