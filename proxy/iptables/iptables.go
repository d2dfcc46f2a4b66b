// Package iptables is a proxy.Backend that rewrites packets with the host's
// iptables and ip6tables, in the chains known from Kubernetes' own proxy. Keeper,
// on which it stands, keeps the chains of any owner beside those of other programs.
package iptables

import (
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
)

// Backend writes rules into the network namespace of the process. A family has
// rules from the first table on that has anything of it.
type Backend struct{ keepers map[corev1.IPFamily]*Keeper }

var _ proxy.Backend = Backend{}

var families = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}

// prefixes of the chains that are this backend's.
var prefixes = []string{
	"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL",
	"KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-",
}

// New returns a backend; Available says whether it can work here.
func New() Backend { return Backend{make(map[corev1.IPFamily]*Keeper)} }

// Available says what the host lacks for rules of any family.
func Available() error {
	var errs []error
	for _, f := range families {
		err := Supports(f)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Apply makes the rules match t.
func (b Backend) Apply(ctx context.Context, t *proxy.Table) error {
	var errs []error
	for _, f := range families {
		if b.keepers[f] == nil && (t.PodsOf(f).IsValid() || slices.ContainsFunc(t.Rules, func(r *proxy.Rule) bool { return r.Family == f })) {
			b.keepers[f] = NewKeeper(f, prefixes, hooks)
		}
		if b.keepers[f] != nil {
			errs = append(errs, b.keepers[f].Apply(ctx, render(t, f)...))
		}
	}
	return errors.Join(errs...)
}

// Intact reports whether the rules are as Apply left them.
func (b Backend) Intact(ctx context.Context) (bool, error) {
	for _, keeper := range b.keepers {
		if intact, err := keeper.Intact(ctx); err != nil || !intact {
			return false, err
		}
	}
	return true, nil
}

// Remove takes the hooks, rules and chains away, of every family that the host has.
func (b Backend) Remove(ctx context.Context) error {
	var errs []error
	for _, f := range families {
		if Supports(f) == nil {
			errs = append(errs, NewKeeper(f, prefixes, hooks).Remove(ctx, "nat", "filter"))
		}
		delete(b.keepers, f)
	}
	return errors.Join(errs...)
}
