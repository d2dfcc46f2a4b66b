// Package iptables is a proxy.Backend that rewrites packets with the host's
// iptables, in the chains known from Kubernetes' own proxy. Keeper, on which it
// stands, keeps the chains of any owner beside those of other programs.
package iptables

import (
	"context"

	"github.com/skiff-k8s/skiff/proxy"
)

// Backend writes rules into the network namespace of the process.
type Backend struct{ keeper *Keeper }

var _ proxy.Backend = Backend{}

// prefixes of the chains that are this backend's.
var prefixes = []string{
	"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL",
	"KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-",
}

// New returns a backend; Available says whether it can work here.
func New() Backend { return Backend{NewKeeper(prefixes, hooks)} }

// Apply makes the rules match t.
func (b Backend) Apply(ctx context.Context, t *proxy.Table) error {
	return b.keeper.Apply(ctx, render(t)...)
}

// Intact reports whether the rules are as Apply left them.
func (b Backend) Intact(ctx context.Context) (bool, error) { return b.keeper.Intact(ctx) }

// Remove takes the hooks, rules and chains away.
func (b Backend) Remove(ctx context.Context) error { return b.keeper.Remove(ctx, "nat", "filter") }
