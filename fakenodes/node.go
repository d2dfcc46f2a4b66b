package fakenodes

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// A lease is renewed every quarter of the time it lasts, and a status that does not change is written every five
// minutes, as kubelets do.
const (
	leaseSeconds = 40
	renewEvery   = leaseSeconds * time.Second / 4
	reportEvery  = 5 * time.Minute
)

// Label is on every fake node, with the value "true".
const Label = "fake.skiff.dev/node"

// version is the kubelet that the nodes say they have.
const version = "v1.36.3"

func (c Config) withDefaults() Config {
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse("32"),
		corev1.ResourceMemory:           resource.MustParse("256Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("1Ti"),
		corev1.ResourcePods:             resource.MustParse("110"),
	}
	maps.Copy(capacity, c.Capacity)
	c.Capacity = capacity
	c.Zones = cmp.Or(c.Zones, 3)
	if c.Behave == nil {
		c.Behave = func(*corev1.Pod) Behaviour { return Behaviour{} }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// node is the i-th node, counted from 0, as it registers.
func (c Config) node(i int, name string, now time.Time) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname:       name,
			corev1.LabelOSStable:       "linux",
			corev1.LabelArchStable:     "amd64",
			corev1.LabelTopologyZone:   "zone-" + strconv.Itoa(i%c.Zones+1),
			corev1.LabelTopologyRegion: "region-1",
			Label:                      "true",
		}},
		Spec: corev1.NodeSpec{Taints: c.Taints},
		Status: corev1.NodeStatus{
			Capacity: c.Capacity, Allocatable: c.Capacity, Conditions: conditions(now),
			NodeInfo: corev1.NodeSystemInfo{
				KubeletVersion: version, ContainerRuntimeVersion: "fake://0", OperatingSystem: "linux", Architecture: "amd64",
				OSImage: "none", KernelVersion: "none",
			},
		},
	}
}

// conditions are those of a node that is well.
func conditions(now time.Time) []corev1.NodeCondition {
	at := metav1.NewTime(now)
	list := []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory", Message: "kubelet has sufficient memory available"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure", Message: "kubelet has no disk pressure"},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID", Message: "kubelet has sufficient PID available"},
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"},
	}
	for i := range list {
		list[i].LastHeartbeatTime, list[i].LastTransitionTime = at, at
	}
	return list
}

// keep registers nodes and keeps them alive until ctx ends: each has its turn in every period, so that the load
// is even however many there are. A node that was deleted stays so.
func (n *Nodes) keep(ctx context.Context, nodes []*keeper) {
	if len(nodes) == 0 {
		return
	}
	every := cmp.Or(n.config.RenewEvery, renewEvery)
	for round := 0; ; round++ {
		begun := time.Now()
		for i, k := range nodes {
			due := begun.Add(every * time.Duration(i) / time.Duration(len(nodes)))
			if round > 0 && !sleep(ctx, time.Until(due)) {
				return
			}
			if err := k.turn(ctx); err != nil && ctx.Err() == nil {
				n.config.Log.Warn("fake node", "node", k.name, "error", err)
			}
		}
		if !sleep(ctx, time.Until(begun.Add(every))) {
			return
		}
	}
}

// sleep reports whether ctx goes on after d.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

// keeper keeps one node alive; one goroutine has it.
type keeper struct {
	*Nodes
	index    int
	name     string
	uid      types.UID // of the node; empty before it is registered
	gone     bool
	reported time.Time
	lease    *coordinationv1.Lease // as last written; nil if that is not known
}

// turn does what is due.
func (k *keeper) turn(ctx context.Context) error {
	if k.gone {
		return nil
	}
	if k.uid == "" {
		if err := k.register(ctx); err != nil {
			return err
		}
	} else if time.Since(k.reported) >= reportEvery || k.doubted() {
		if err := k.report(ctx); err != nil {
			return err
		}
	}
	if k.gone {
		return nil
	}
	return k.renew(ctx)
}

// doubted reports whether the node is held to be not ready, as after a pause of this process.
func (k *keeper) doubted() bool {
	node, err := k.nodes.Get(k.name)
	if err != nil {
		return false // not in the cache yet, or gone, which the report finds out
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status != corev1.ConditionTrue
		}
	}
	return true
}

// register makes the node, or takes over the one that an earlier run made.
func (k *keeper) register(ctx context.Context) error {
	now := time.Now()
	node, err := k.config.Client.CoreV1().Nodes().Create(ctx, k.config.node(k.index, k.name, now), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return k.report(ctx)
	}
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	k.uid, k.reported = node.UID, now
	return nil
}

// report says that the node is well.
func (k *keeper) report(ctx context.Context) error {
	now := time.Now()
	have, err := k.nodes.Get(k.name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	list := conditions(now)
	for i := range list {
		if have == nil {
			break
		}
		for _, old := range have.Status.Conditions {
			if old.Type == list[i].Type && old.Status == list[i].Status {
				list[i].LastTransitionTime = old.LastTransitionTime
			}
		}
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{
		"conditions": list, "capacity": k.config.Capacity, "allocatable": k.config.Capacity,
	}})
	if err != nil {
		return err
	}
	node, err := k.config.Client.CoreV1().Nodes().Patch(ctx, k.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		k.gone = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	k.uid, k.reported = node.UID, now
	return nil
}

// renew renews the lease as last written, or the one in the API if that is not known.
func (k *keeper) renew(ctx context.Context) error {
	leases := k.config.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	lease := k.lease
	k.lease = nil // unless all goes well
	if lease == nil {
		var err error
		if lease, err = leases.Get(ctx, k.name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: k.name, Namespace: corev1.NamespaceNodeLease}}
		} else if err != nil {
			return fmt.Errorf("get the lease: %w", err)
		}
	}
	lease.Spec = coordinationv1.LeaseSpec{
		HolderIdentity: &k.name, LeaseDurationSeconds: ptr.To[int32](leaseSeconds), RenewTime: &metav1.MicroTime{Time: time.Now()},
	}
	lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: k.name, UID: k.uid}}
	var err error
	if lease.ResourceVersion == "" {
		lease, err = leases.Create(ctx, lease, metav1.CreateOptions{})
	} else {
		lease, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}
	if apierrors.IsNotFound(err) {
		// The lease went with its node, which then is not to come back.
		return k.report(ctx)
	}
	if err != nil {
		return fmt.Errorf("renew the lease: %w", err)
	}
	k.lease = lease
	return nil
}
