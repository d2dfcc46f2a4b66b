package nodes

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// CIDR gives every node that has none a range of pod addresses out of each of the cluster's, which are of different
// families. A node's ranges never change; they are free again when the node is deleted. It is woken by a node, and
// works on one at a time, so that no range is given twice.
func CIDR(d Deps, shares []Share) reconcile.Controller {
	nodes := d.Informers.Core().V1().Nodes()
	c := &cidrs{client: d.Client, nodes: nodes.Lister(), events: d.Recorder("cidrAllocator"), ranges: newRanges(shares)}
	return reconcile.Controller{
		Name:    "NodeCIDR",
		Workers: 1,
		Watch:   []reconcile.Source{reconcile.On(nodes.Informer(), c.nodeChanged)},
		Sync:    c.sync,
	}
}

type cidrs struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	events record.EventRecorder
	ranges *ranges
}

func (c *cidrs) nodeChanged(old, node *corev1.Node) []reconcile.Key {
	switch {
	case node == nil:
		c.ranges.release(old.Name)
		return []reconcile.Key{reconcile.KeyOf(old)}
	case len(node.Spec.PodCIDRs) > 0:
		c.ranges.hold(node.Name, node.Spec.PodCIDRs)
		return nil
	}
	return []reconcile.Key{reconcile.KeyOf(node)}
}

func (c *cidrs) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	node, err := c.nodes.Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.ranges.release(key.Name)
		return 0, nil
	}
	if err != nil || len(node.Spec.PodCIDRs) > 0 {
		return 0, err
	}
	free, err := c.ranges.give(node.Name)
	if err != nil {
		c.events.Eventf(aboutNode(node), corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: %s", node.Name, "CIDRNotAvailable")
		return 0, fmt.Errorf("node %s: %w", node.Name, err)
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": free[0], "podCIDRs": free},
	})
	if err != nil {
		return 0, err
	}
	// What was given stays given though the write fails: it may have happened all the same.
	if _, err := c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return 0, fmt.Errorf("give %v to node %s: %w", free, node.Name, err)
	}
	return 0, nil
}
