package services

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	networkingapply "k8s.io/client-go/applyconfigurations/networking/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

const (
	rangeManager   = "service-cidr-controller"
	rangeFinalizer = "networking.k8s.io/service-cidr-finalizer"
	// addressManager marks the addresses that were given to Services.
	addressManager = "ipallocator.k8s.io"
	// rangeGrace is how long a range without addresses stays after its deletion began: a server may not know yet, and
	// give another address of it away.
	rangeGrace = 10 * time.Second
)

// ServiceCIDR says which ranges of Service addresses are ready, and lets a range that is being deleted go only when
// every address given out is in another one. It is woken by ranges, and by addresses of ranges that are being deleted.
func ServiceCIDR(d Deps) reconcile.Controller {
	ranges := d.Informers.Networking().V1().ServiceCIDRs()
	addresses := d.Informers.Networking().V1().IPAddresses()
	// waiting are the ranges being deleted that may go when one that overlaps them comes, or an address of them goes.
	waiting := func(prefixes []netip.Prefix) (keys []reconcile.Key) {
		all, err := ranges.Lister().List(labels.Everything())
		if err != nil {
			return nil // a cache gives no error
		}
		for _, r := range all {
			if r.DeletionTimestamp != nil && slices.ContainsFunc(prefixesOf(r), func(p netip.Prefix) bool { return slices.ContainsFunc(prefixes, p.Overlaps) }) {
				keys = append(keys, reconcile.KeyOf(r))
			}
		}
		return keys
	}
	return reconcile.Controller{
		Name:    "ServiceCIDR",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(ranges.Informer()),
			reconcile.On(ranges.Informer(), func(old, changed *networkingv1.ServiceCIDR) []reconcile.Key {
				if changed == nil {
					changed = old
				}
				return waiting(prefixesOf(changed))
			}),
			reconcile.On(addresses.Informer(), func(old, changed *networkingv1.IPAddress) []reconcile.Key {
				if changed == nil {
					changed = old
				}
				a, err := netip.ParseAddr(changed.Name)
				if err != nil || changed.Labels[networkingv1.LabelManagedBy] != addressManager {
					return nil
				}
				return waiting([]netip.Prefix{netip.PrefixFrom(a, a.BitLen())})
			}),
		},
		Sync: func(ctx context.Context, key reconcile.Key) (time.Duration, error) {
			r, err := ranges.Lister().Get(key.Name)
			if err != nil {
				return 0, reconcile.IgnoreNotFound(err)
			}
			if r.DeletionTimestamp != nil {
				all, err := ranges.Lister().List(labels.Everything())
				if err != nil {
					return 0, err
				}
				given, err := addresses.Lister().List(labels.SelectorFromSet(labels.Set{networkingv1.LabelManagedBy: addressManager}))
				if err != nil {
					return 0, err
				}
				return letGo(ctx, d, r, needed(r, all, given))
			}
			if !slices.Contains(r.Finalizers, rangeFinalizer) {
				protected := r.DeepCopy()
				protected.Finalizers = append(protected.Finalizers, rangeFinalizer)
				if r, err = d.Client.NetworkingV1().ServiceCIDRs().Update(ctx, protected, metav1.UpdateOptions{}); err != nil {
					return 0, reconcile.IgnoreNotFound(fmt.Errorf("protect range %s: %w", key.Name, err))
				}
			}
			return 0, setReady(ctx, d, r, readiness)
		},
	}
}

// letGo ends the deletion of a range, unless addresses need it.
func letGo(ctx context.Context, d Deps, r *networkingv1.ServiceCIDR, needed bool) (time.Duration, error) {
	switch wait := rangeGrace - time.Since(r.DeletionTimestamp.Time); {
	case !slices.Contains(r.Finalizers, rangeFinalizer):
		return 0, nil
	case needed:
		return 0, setReady(ctx, d, r, metav1.Condition{
			Status: metav1.ConditionFalse, Reason: networkingv1.ServiceCIDRReasonTerminating,
			Message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
		})
	case wait > 0:
		return wait, nil
	}
	free := r.DeepCopy()
	free.Finalizers = slices.DeleteFunc(free.Finalizers, func(f string) bool { return f == rangeFinalizer })
	_, err := d.Client.NetworkingV1().ServiceCIDRs().Update(ctx, free, metav1.UpdateOptions{})
	return 0, reconcile.IgnoreNotFound(err)
}

// readiness is what the status of a range says that stays. Servers take addresses from it if they have its family.
var readiness = metav1.Condition{Status: metav1.ConditionTrue, Message: "Kubernetes Service CIDR is ready"}

// setReady writes the condition Ready if it is another.
func setReady(ctx context.Context, d Deps, r *networkingv1.ServiceCIDR, want metav1.Condition) error {
	have := meta.FindStatusCondition(r.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
	if have != nil && have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message {
		return nil
	}
	status := networkingapply.ServiceCIDRStatus().WithConditions(metaapply.Condition().
		WithType(networkingv1.ServiceCIDRConditionReady).WithStatus(want.Status).WithReason(want.Reason).WithMessage(want.Message).
		WithLastTransitionTime(metav1.Now()))
	_, err := d.Client.NetworkingV1().ServiceCIDRs().ApplyStatus(ctx, networkingapply.ServiceCIDR(r.Name).WithStatus(status),
		metav1.ApplyOptions{FieldManager: rangeManager, Force: true})
	return reconcile.IgnoreNotFound(err)
}

// needed reports whether an address that was given out would be in no range without r.
func needed(r *networkingv1.ServiceCIDR, all []*networkingv1.ServiceCIDR, given []*networkingv1.IPAddress) bool {
	var others, mine []netip.Prefix
	for _, other := range all {
		if other.Name != r.Name {
			others = append(others, prefixesOf(other)...)
		}
	}
	for _, p := range prefixesOf(r) {
		if !slices.ContainsFunc(others, func(o netip.Prefix) bool { return o.Overlaps(p) && o.Bits() <= p.Bits() }) {
			mine = append(mine, p)
		}
	}
	return slices.ContainsFunc(given, func(ip *networkingv1.IPAddress) bool {
		a, err := netip.ParseAddr(ip.Name)
		holds := func(p netip.Prefix) bool { return p.Contains(a) }
		return err == nil && slices.ContainsFunc(mine, holds) && !slices.ContainsFunc(others, holds)
	})
}

func prefixesOf(r *networkingv1.ServiceCIDR) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, text := range r.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			prefixes = append(prefixes, p.Masked())
		}
	}
	return prefixes
}
