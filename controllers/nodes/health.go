package nodes

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coordinationinformers "k8s.io/client-go/informers/coordination/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// startupGrace is how long a new node may take to report for the first time.
const startupGrace = time.Minute

// Health finds nodes that gave no sign of life for grace: it sets their conditions to Unknown, and the pods on
// them to not ready. It keeps the taints that follow from a node's conditions. A sign of life is a renewal of
// the node's lease or a new heartbeat in its status; when it arrived is measured by our own clock, so that the
// nodes' clocks do not matter.
//
// It is woken by a node, and sleeps until the node's grace has passed. Renewals of leases are only noted.
// taints.go decides which taints there should be.
func Health(d Deps, grace time.Duration) (reconcile.Controller, error) {
	nodes := d.Informers.Core().V1().Nodes()
	pods := d.Informers.Core().V1().Pods().Informer()
	index, err := indexByNode(pods)
	if err != nil {
		return reconcile.Controller{}, err
	}
	leases := coordinationinformers.NewLeaseInformer(d.Client, corev1.NamespaceNodeLease, 0, cache.Indexers{})
	h := &health{
		client: d.Client, nodes: nodes.Lister(), podIndex: index, grace: grace,
		events: d.Recorder("node-controller"),
		signs:  map[string]sign{},
		ceased: map[string]bool{},
		census: newCensus(),
		pace:   newPace(),
	}
	return reconcile.Controller{
		Name:    "NodeHealth",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Own(leases),
			reconcile.On(leases, h.leaseChanged),
			reconcile.On(nodes.Informer(), h.nodeChanged),
			reconcile.Synced(pods),
		},
		Sync: h.sync,
	}, nil
}

type health struct {
	client   kubernetes.Interface
	nodes    corelisters.NodeLister
	podIndex cache.Indexer
	grace    time.Duration
	events   record.EventRecorder

	census *census
	pace   *pace

	mu     sync.Mutex
	signs  map[string]sign
	ceased map[string]bool // nodes that were ready and are not any more, until their pods are marked
}

// sign is the last sign of life of a node.
type sign struct {
	at        time.Time // by our clock
	renewed   time.Time // of the lease, by the node's
	heartbeat time.Time // of the status, by the node's
}

func (h *health) leaseChanged(_, lease *coordinationv1.Lease) []reconcile.Key {
	if lease == nil || lease.Spec.RenewTime == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.signs[lease.Name]; !s.renewed.Equal(lease.Spec.RenewTime.Time) {
		s.at, s.renewed = time.Now(), lease.Spec.RenewTime.Time
		h.signs[lease.Name] = s
	}
	return nil
}

// nodeChanged names the node, and those others that are to be judged anew because of it: whether a node is tainted
// depends on how many are well.
func (h *health) nodeChanged(old, node *corev1.Node) []reconcile.Key {
	if node == nil {
		h.events.Eventf(aboutNode(old), corev1.EventTypeNormal, "RemovingNode", "Node %s event: Removing Node %s from Controller", old.Name, old.Name)
		return append(keysOf(h.census.remove(old.Name)), reconcile.KeyOf(old))
	}
	switch {
	case old == nil:
		h.events.Eventf(aboutNode(node), corev1.EventTypeNormal, "RegisteredNode", "Node %s event: Registered Node %s in Controller", node.Name, node.Name)
	case readiness(old) == readiness(node):
	case readiness(old) == corev1.ConditionTrue || readiness(node) == corev1.ConditionTrue:
		h.setCeased(node.Name, readiness(node) != corev1.ConditionTrue)
	}
	return append(keysOf(h.census.put(node)), reconcile.KeyOf(node))
}

func keysOf(nodes []string) []reconcile.Key {
	keys := make([]reconcile.Key, 0, len(nodes)+1)
	for _, name := range nodes {
		keys = append(keys, reconcile.Key{Name: name})
	}
	return keys
}

func (h *health) setCeased(node string, ceased bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ceased[node] = ceased
}

func (h *health) hasCeased(node string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ceased[node]
}

func (h *health) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	cached, err := h.nodes.Get(key.Name)
	if apierrors.IsNotFound(err) {
		h.forget(key.Name)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	node := cached.DeepCopy()
	left := h.timeLeft(node, time.Now())
	if left <= 0 {
		if err := h.markUnknown(ctx, node); err != nil {
			return 0, err
		}
	}
	var errs []error
	if h.hasCeased(node.Name) && readiness(node) != corev1.ConditionTrue {
		if err := h.markPodsNotReady(ctx, node); err != nil {
			errs = append(errs, err)
		} else {
			h.setCeased(node.Name, false)
		}
	}
	wait, err := h.taint(ctx, node)
	errs = append(errs, err)
	if left <= 0 {
		left = 0 // the node's next sign of life wakes us through its status
	}
	return sooner(left, wait), errors.Join(errs...)
}

// timeLeft is how long the node may still be silent. It first notes the heartbeat of the very status that it is
// asked about: that may be in the cache before anybody was woken for it.
func (h *health) timeLeft(node *corev1.Node, now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.signs[node.Name]
	ready := condition(node, corev1.NodeReady)
	if ready == nil && s.at.IsZero() {
		return node.CreationTimestamp.Add(startupGrace).Sub(now)
	}
	// Our own write of Unknown leaves the heartbeat as it was, so it is no sign of life.
	if ready != nil && (s.at.IsZero() || !s.heartbeat.Equal(ready.LastHeartbeatTime.Time)) {
		s.at, s.heartbeat = now, ready.LastHeartbeatTime.Time
		h.signs[node.Name] = s
	}
	return s.at.Add(h.grace).Sub(now)
}

// forget drops what is known of a node that is gone. Only a sync may do so: one that is under way for the node
// might note it again.
func (h *health) forget(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.signs, node)
	delete(h.ceased, node)
}

// markUnknown sets what a silent node last said of itself to Unknown.
func (h *health) markUnknown(ctx context.Context, node *corev1.Node) error {
	wasReady := readiness(node) == corev1.ConditionTrue
	if !setUnknown(node, time.Now()) {
		return nil
	}
	updated, err := h.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("mark node %s unknown: %w", node.Name, err)
	}
	*node = *updated
	if wasReady {
		h.events.Eventf(aboutNode(node), corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: %s", node.Name, "NodeNotReady")
	}
	return nil
}

// setUnknown changes the conditions that a kubelet reports, and tells whether any was not Unknown.
func setUnknown(node *corev1.Node, now time.Time) (changed bool) {
	for _, kind := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		c := condition(node, kind)
		switch {
		case c == nil:
			node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{
				Type: kind, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: metav1.NewTime(now),
			})
			changed = true
		case c.Status != corev1.ConditionUnknown:
			c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = metav1.NewTime(now)
			changed = true
		}
	}
	return changed
}

// markPodsNotReady takes the pods of a node that has ceased to be ready out of service. That is done once: a
// node that never was ready, or still reports, knows best about its pods.
func (h *health) markPodsNotReady(ctx context.Context, node *corev1.Node) error {
	pods, err := podsOn(h.podIndex, node.Name)
	if err != nil {
		return err
	}
	var errs []error
	for _, pod := range pods {
		i := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
		if i < 0 || pod.Status.Conditions[i].Status != corev1.ConditionTrue {
			continue
		}
		pod = pod.DeepCopy()
		pod.Status.Conditions[i].Status = corev1.ConditionFalse
		pod.Status.Conditions[i].LastTransitionTime = metav1.Now()
		_, err := h.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
		switch {
		case err == nil:
			h.events.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
		case !apierrors.IsNotFound(err):
			errs = append(errs, fmt.Errorf("mark pod %s/%s not ready: %w", pod.Namespace, pod.Name, err))
		}
	}
	return errors.Join(errs...)
}

// taint brings the node's taints in line with its conditions. One that evicts pods is held back while too many
// nodes are unwell, or too many were tainted just now; then it returns when to try again.
func (h *health) taint(ctx context.Context, node *corev1.Node) (wait time.Duration, err error) {
	disruption, nodes := h.census.disruption(zoneOf(node))
	wanted := conditionTaints(node, metav1.Now())
	if evicting := slices.ContainsFunc(wanted, isEvicting); evicting && !slices.ContainsFunc(node.Spec.Taints, isEvicting) {
		may, later := h.pace.allow(zoneOf(node), disruption, nodes, time.Now())
		if !may {
			wanted = slices.DeleteFunc(wanted, isEvicting)
			wait = later
		}
	} else if evicting && disruption == total {
		wanted = slices.DeleteFunc(wanted, isEvicting) // rather it is us who are cut off
	}
	taints := mergeTaints(node.Spec.Taints, wanted)
	if slices.EqualFunc(taints, node.Spec.Taints, func(a, b corev1.Taint) bool { return a.MatchTaint(&b) && a.Value == b.Value }) {
		return wait, nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID, "resourceVersion": node.ResourceVersion},
		"spec":     map[string]any{"taints": taints},
	})
	if err != nil {
		return wait, err
	}
	_, err = h.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return wait, fmt.Errorf("taint node %s: %w", node.Name, err)
	}
	return wait, nil
}

// zoneOf is the failure domain of a node.
func zoneOf(node *corev1.Node) string {
	return cmp.Or(node.Labels[corev1.LabelTopologyRegion], node.Labels[corev1.LabelFailureDomainBetaRegion]) + "/" +
		cmp.Or(node.Labels[corev1.LabelTopologyZone], node.Labels[corev1.LabelFailureDomainBetaZone])
}

func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}
