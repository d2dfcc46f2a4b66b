package node

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// The lease is renewed every quarter of the time it lasts.
const (
	leaseSeconds = 40
	renewEvery   = leaseSeconds * time.Second / 4
)

// renew keeps the node's lease until ctx ends.
func (m *Manager) renew(ctx context.Context) {
	var lease *coordinationv1.Lease
	for {
		next, err := m.renewOnce(ctx, lease)
		lease = next
		pause := renewEvery
		if err != nil {
			if ctx.Err() == nil {
				slog.Warn("node lease not renewed, will try again", "node", m.cfg.Name, "error", err)
			}
			pause = time.Second
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// renewOnce renews the lease as last written, or the one in the API if that is not known. After an error
// it is not known.
func (m *Manager) renewOnce(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	leases := m.cfg.Client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	if lease == nil {
		found, err := leases.Get(ctx, m.cfg.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			fresh := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: m.cfg.Name, Namespace: v1.NamespaceNodeLease}}
			m.hold(fresh)
			created, err := leases.Create(ctx, fresh, metav1.CreateOptions{})
			if err != nil {
				return nil, fmt.Errorf("create lease %s: %w", m.cfg.Name, err)
			}
			return created, nil
		}
		if err != nil {
			return nil, fmt.Errorf("get lease %s: %w", m.cfg.Name, err)
		}
		lease = found
	}
	lease = lease.DeepCopy()
	m.hold(lease)
	updated, err := leases.Update(ctx, lease, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("renew lease %s: %w", m.cfg.Name, err)
	}
	return updated, nil
}

// hold makes the lease ours from now on; it goes with the node's object.
func (m *Manager) hold(lease *coordinationv1.Lease) {
	lease.Spec.HolderIdentity = &m.cfg.Name
	lease.Spec.LeaseDurationSeconds = ptr.To[int32](leaseSeconds)
	lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
	if node := m.Node(); node.UID != "" {
		lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	}
}
