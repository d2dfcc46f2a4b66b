package apiserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/builtin/core"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// These are the names under which clients know the parts of a control plane.
const (
	controllersPart = "controller-manager"
	storagePart     = "etcd-0"
	schedulerPart   = "scheduler"
)

// components are what ComponentStatuses tell of. A part that runs elsewhere is well while its leader renews its lease.
// server is asked for when a probe needs it: kinds are made before their server is.
func (o Options) components(server func() *Server) []core.Component {
	leads := func(name, lease string) core.Component {
		if probe := o.Components[name]; probe != nil {
			return core.Component{Name: name, Probe: probe}
		}
		return core.Component{Name: name, Probe: func(ctx context.Context) error {
			return leaderLives(ctx, server().Cluster(), lease, time.Now())
		}}
	}
	return []core.Component{
		leads(controllersPart, "kube-controller-manager"),
		{Name: storagePart, Probe: func(ctx context.Context) error { return server().probeStorage(ctx) }},
		leads(schedulerPart, "kube-scheduler"),
	}
}

// leaderLives says why nobody can be counted on to hold a lease of leaders now.
func leaderLives(ctx context.Context, c resource.Cluster, name string, now time.Time) error {
	obj, err := c.Get(ctx, c.Resource(coordinationv1.GroupName, "leases"), metav1.NamespaceSystem, name)
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("not known to run: there is no lease %s/%s", metav1.NamespaceSystem, name)
	}
	if err != nil {
		return err
	}
	lease, ok := obj.(*coordinationv1.Lease)
	if !ok || ptr.Deref(lease.Spec.HolderIdentity, "") == "" || lease.Spec.RenewTime == nil {
		return errors.New("no leader holds its lease")
	}
	valid := time.Duration(ptr.Deref(lease.Spec.LeaseDurationSeconds, 0)) * time.Second
	if late := now.Sub(lease.Spec.RenewTime.Time); late > valid {
		return fmt.Errorf("leader %s renewed its lease %v ago, which is good for %v", *lease.Spec.HolderIdentity, late.Round(time.Second), valid)
	}
	return nil
}
